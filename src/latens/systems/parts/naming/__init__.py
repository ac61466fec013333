"""Names by example: a person marks a few images, and every pixel of the others gets a name."""
