"""`python -m pensieve` is the `pensieve` command."""

import sys

from .api.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
