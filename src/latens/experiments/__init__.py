"""Training, timing and tabulating for the laboratory: what systems share, without knowing any of them."""
