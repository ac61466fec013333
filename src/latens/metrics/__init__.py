"""Metrics, shared by all systems."""
