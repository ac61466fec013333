"""Baselines of the paper: dark channel prior, boundary constraint, DehazeNet."""
