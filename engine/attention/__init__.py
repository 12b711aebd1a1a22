"""Attention over the paged KV pools: the model's cache argument, and what computes it on each device."""
