"""The demo model: a toy trained on synthetic tool-calling tasks, and the scripts that made it."""
