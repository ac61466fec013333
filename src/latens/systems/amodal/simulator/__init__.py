"""Simulators of images whose hidden parts are known: embryos, generic shapes, real nuclei laid over each other."""
