"""The formats of tool calls, one file a format: how its calls are read and how they are constrained."""
