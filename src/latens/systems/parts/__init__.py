"""Discovery of parts in images without labels, and representations for recognition (Gupta et al. 2020, PatchVAE)."""
