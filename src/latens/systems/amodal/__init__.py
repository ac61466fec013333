"""Amodal instance segmentation with vector-quantised shape codes (000)."""
