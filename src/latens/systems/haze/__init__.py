"""Joint haze synthesis and dehazing (002)."""
