"""Simulators of images with known hidden parts: embryos, generic shapes, composites of real nuclei."""
