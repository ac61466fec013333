"""The local page of `latens app`: one tab a system; every result is made by the command of the same name."""
