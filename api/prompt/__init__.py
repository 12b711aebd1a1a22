"""Turns a request into the token ids of its prompt: conversation, chat template, tokenizer."""
