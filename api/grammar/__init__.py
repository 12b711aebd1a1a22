"""Constrained decoding: schemas and call formats to grammars, and grammars to masks."""
