"""The page for people at `/`, and the events that keep it up to date."""
