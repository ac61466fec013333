"""What the paper compares with: the dark channel prior, the boundary constraint, DehazeNet."""
