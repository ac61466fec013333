"""Parts of pictures discovered without labels, and representations for recognition (004, PatchVAE)."""
