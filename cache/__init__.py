"""KV memory: which block holds what, which prefix is known, and the arrays themselves."""
