"""From a model's name to a runner: hub, config, weights, tokenizer, memory plan, checks."""
