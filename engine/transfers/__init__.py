"""KV and states on their way between the pools and files."""
