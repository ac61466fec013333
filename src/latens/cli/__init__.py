"""The command `latens`: parses arguments, calls the Python interface, prints results. One file per verb; see `main.VERBS`."""
