"""Evaluation, benchmarks, reproduction of tables and figures, and demo: code shared by all systems."""
