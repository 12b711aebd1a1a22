"""The `pensieve` command: its flags, `serve` and `claude`, and their messages to the user."""
