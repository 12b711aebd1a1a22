"""gpt-oss's calls, as `HarmonyText` writes them: `read<|message|>{…}`.

The model writes them as messages, with the recipient before or after the channel:
`<|channel|>commentary to=functions.read <|constrain|>json<|message|>{…}<|call|>`. Calls in the channel of
thoughts occur as well. The last tag ends the answer.
"""

import json
import re
from collections import abc
from functools import partial
from typing import Any

from ..grammars.callable_tool import CallableTool
from ..grammars.lark import Lark, literal
from ..grammars.properties import json_arguments
from ..harmony import CHANNEL, MESSAGE
from ..readers.header_calls import HeaderCalls
from .call_syntax import CallSyntax

HEADER = re.compile(r"([\w.-]+)<\|message\|>")
CHANNELS = ("commentary", "analysis")
RECIPIENT = '" to=functions."'
CONTENT_TYPE = '" json" | " code" | " "? {constrain} "json"'


def parse_call(text: str, _tools: Any = None) -> dict[str, Any]:
    """Parse a call without its tags. Raises ValueError."""
    header = HEADER.match(text)
    if header is None:
        raise ValueError("no call")
    return {"name": header[1], "arguments": json.loads(text[header.end() :])}


def _define_rule(lark: Lark, tools: abc.Sequence[CallableTool]) -> str:
    """Define the rule for a whole message, but for the tag at its end."""
    channel = lark.one_of([lark.tag(CHANNEL + name) for name in CHANNELS])
    content_type = CONTENT_TYPE.format(constrain=lark.tag("<|constrain|>"))
    begin = lark.new(f'({content_type})? " "? {lark.tag(MESSAGE)} SPACE')
    return lark.one_of(
        [
            f"({RECIPIENT} {literal(tool.name)} {channel} | {channel} {RECIPIENT} {literal(tool.name)})"
            f" {begin} {json_arguments(lark, tool.schema)} SPACE"
            for tool in tools
        ]
    )


HARMONY_CALLS = CallSyntax("harmony_calls", partial(HeaderCalls, HEADER), _define_rule, has_own_tags=True)
