"""Amodal instance segmentation with vector-quantized shape codes (Jang et al. 2020)."""
