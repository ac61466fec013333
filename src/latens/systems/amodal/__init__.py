"""Amodal instance segmentation with vector-quantized shape codes (000)."""
