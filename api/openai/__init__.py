"""OpenAI's API: its routes, wire types and chunks, on the pipeline of the Anthropic routes."""
