"""Lossless packing by an integer flow: color transform, phases from coarse to fine, conditional logistics, ANS coder."""
