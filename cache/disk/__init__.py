"""KV on disk: files of KV and states, what they hold, how much they may take, and when they are written."""
