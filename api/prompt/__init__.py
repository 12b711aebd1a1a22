"""A request's way to token ids: conversation, chat template, tokenizer."""
