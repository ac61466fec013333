"""Evaluation, benchmarks, reproduction of tables and figures, and demo: code that all systems share."""
