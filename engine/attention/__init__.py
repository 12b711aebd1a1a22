"""Attention over the paged KV pools: the model's cache argument, and an implementation for each device."""
