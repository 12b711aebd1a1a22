"""Measurements of Pensieve, one script per question."""
