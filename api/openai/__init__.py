"""OpenAI's API: its routes, wire types and events; the answers are those of the Anthropic routes."""
