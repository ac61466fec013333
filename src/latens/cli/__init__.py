"""The command `latens`: it parses, calls the Python interface, and prints. One file a verb; see `main.VERBS`."""
