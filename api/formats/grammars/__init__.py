"""Writes the grammars that tool calls are constrained to while they are decoded."""
