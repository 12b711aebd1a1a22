"""What became of each request: how much of its prompt was cached, why not more, and how long it took."""
