"""Procedural scenes of known parts."""
