"""Simulated seedling trays: plants that grow over days, and photographs of them with their truth."""
