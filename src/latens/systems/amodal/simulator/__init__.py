"""Procedural images with whole truth: embryos, generic shapes, composites of real nuclei."""
