"""OpenAI's Responses API: its items and events, on the pipeline of the chats."""
