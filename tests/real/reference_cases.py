"""Answers of real models' formats with the text, thoughts and calls that their makers' peers read in them."""

import re
from dataclasses import dataclass
from typing import Any

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
BAD_NAME = "a tool whose name Anthropic's API does not allow"

Call = tuple[str, str]
"""A call's name, and its arguments as JSON text."""


@dataclass(frozen=True, slots=True)
class Case:
    """One answer and what it means.

    template: the name of the chat template. answer: what the model writes after the prompt.
    thinks: the request asks for thoughts. is_partial: the answer is cut off.
    schema: of the answer, as JSON text; empty for none. messages: of the request; empty for any.
    set_aside: why the case cannot be judged here; empty where it can.
    """

    source: str
    template: str
    answer: str
    text: str
    thoughts: str
    calls: tuple[Call, ...]
    tools: tuple[dict[str, Any], ...] = ()
    thinks: bool = False
    is_partial: bool = False
    schema: str = ""
    must_call: bool = False
    set_aside: str = ""
    messages: tuple[dict[str, Any], ...] = ()
