"""KV memory: block allocator, prefix tree, and the pools that hold keys and values."""
