"""The demo model: a toy that scripts/demo_model trained on synthetic tool-calling tasks."""
