"""The `pensieve` command: its flags, `serve` and `claude`, and what they tell the user. Knows no request."""
