"""`python -m pensieve` is the `pensieve` command."""

from .api.command.cli import run

if __name__ == "__main__":
    run()
