"""Nuclei of any number and size: a dense star-convex model of the amodal system."""
