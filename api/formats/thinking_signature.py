"""The signature of a thinking block, which clients keep and send back with it.

The signature proves nothing here. But a client that omits thoughts sends back an empty block, and a template
may want the thoughts of earlier steps: so thoughts travel in the signature, as Anthropic's own do.
"""

import base64
import binascii

UNSIGNED = "unsigned"
PREFIX = "pensieve:"


def seal(thoughts: str) -> str:
    """Write thoughts as a signature."""
    return PREFIX + base64.b64encode(thoughts.encode()).decode()


def unseal(signature: str | None) -> str:
    """Read the thoughts out of a signature; empty when there are none in it."""
    if signature is None or not signature.startswith(PREFIX):
        return ""
    try:
        return base64.b64decode(signature.removeprefix(PREFIX), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
