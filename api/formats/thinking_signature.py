"""The signature of a thinking block, which clients keep and send back with it.

The signature proves nothing. But a client that omits thoughts sends back an empty block, and a template may
show the thoughts of earlier answers: so the signature holds the thoughts, as Anthropic's does.
"""

import base64

UNSIGNED = "unsigned"
PREFIX = "pensieve:"
PIECE = 1024 * 1024  # characters that are read before other threads may go on; whole groups of four


def seal(thoughts: str) -> str:
    """Write thoughts as a signature."""
    return PREFIX + base64.b64encode(thoughts.encode()).decode()


def unseal(signature: str | None) -> str:
    """Read the thoughts from a signature; empty when it holds none."""
    if signature is None or not signature.startswith(PREFIX):
        return ""
    text = signature.removeprefix(PREFIX)
    try:
        parts = [
            base64.b64decode(text[place : place + PIECE], validate=True)
            for place in range(0, len(text), PIECE)
        ]
        return b"".join(parts).decode()
    except ValueError:  # no base64, or no UTF-8 in it
        return ""
