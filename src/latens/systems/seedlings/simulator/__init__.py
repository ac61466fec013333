"""Simulated seedling trays: plants that grow over days, and their photographs with ground truth."""
