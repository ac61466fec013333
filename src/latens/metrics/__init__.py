"""Measures of results, shared by all systems."""
