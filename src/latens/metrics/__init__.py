"""How results are measured: thin adapters, so that every system reports the same way."""
