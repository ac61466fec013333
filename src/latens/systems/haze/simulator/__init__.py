"""Procedural streets with depth."""
