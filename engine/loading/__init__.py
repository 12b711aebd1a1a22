"""From a model's name to a runner: hub, weights and config, memory plan, load, checks."""
