"""Token ids' way back: text, thoughts and calls."""
