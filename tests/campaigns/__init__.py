"""Kills, disk faults and fuzzing of all verbs; `make kill`, `make diskfault` and `make fuzz` run them for longer."""
