"""gpt-oss's calls, as `HarmonyText` writes them: `read<|message|>{…}`. They are not constrained."""

import json
import re
from functools import partial
from typing import Any

from ..readers.header_calls import HeaderCalls
from .call_syntax import CallSyntax

HEADER = re.compile(r"([\w.-]+)<\|message\|>")


def parse_call(text: str, _tools: Any = None) -> dict[str, Any]:
    """Parse a call without its tags. Raises ValueError."""
    header = HEADER.match(text)
    if header is None:
        raise ValueError("no call")
    return {"name": header[1], "arguments": json.loads(text[header.end() :])}


HARMONY_CALLS = CallSyntax("harmony_calls", partial(HeaderCalls, HEADER))
