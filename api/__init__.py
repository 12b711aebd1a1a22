"""The HTTP surface: wire types, prompts, streams, errors, metrics, and the command line."""
