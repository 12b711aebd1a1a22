"""Decides which sequences run in each step; no arrays, no HTTP."""
