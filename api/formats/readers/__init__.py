"""Reads tool calls while the model writes them."""
