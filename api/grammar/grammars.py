"""Compiles what a request's answer must conform to, off the event loop, and keeps what was compiled."""

import asyncio
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from ..calls.tools import PLACEHOLDER_TOOL, ToolFormat
from ..errors import InvalidRequest
from ..schema import Tool
from .call_grammar import CallableTool, call_format, call_grammar, value_grammar
from .json_schema import any_arguments, arguments_schema, dump_schema, exact_schema, structure_only, too_large
from .lark import Lark
from .vocabulary import Vocabulary

MAX_GRAMMAR_CHARS = 512 * 1024
MAX_KEPT_CHARS = 1024 * 1024  # of the grammars that are kept; compiled, a character takes about 200 bytes
MAX_COMPILING = 2  # at once: requests that only tokenise share the threads

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # 40 ms
    step_lexer_fuel=200_000,  # 15 ms, for one token
    step_max_items=50_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)


@dataclass(frozen=True, slots=True)
class Grammar:
    """A compiled grammar.

    frees: where it may end, the answer is free text again; else only the end of the answer may follow.
    """

    text: str
    frees: bool
    start: LLMatcher

    def begin(self) -> LLMatcher:
        """Make a matcher that has seen nothing yet."""
        return self.start.deep_copy()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer must conform to. schema: of the whole answer, None where text is free."""

    tools: tuple[Tool, ...]
    tool_format: ToolFormat | None
    schema: dict[str, Any] | None

    @property
    def key(self) -> bytes:
        """The same for all that compile to the same grammar."""
        marks = [self.tool_format.start, self.tool_format.end] if self.tool_format else []
        tools = [[tool.name, tool.input_schema] for tool in self.tools]
        return hashlib.sha256(json.dumps([marks, tools, self.schema]).encode()).digest()


class Grammars:
    """The grammars of one model's requests, least recently used first."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._bytes = _byte_compiler()
        self._kept: OrderedDict[bytes, Grammar] = OrderedDict()
        self._compiling: dict[bytes, asyncio.Task[Grammar]] = {}
        self._turns = asyncio.Semaphore(MAX_COMPILING)

    async def get(self, wanted: Wanted) -> Grammar:
        """Return the grammar, compiled now or before. Raises InvalidRequest when that cannot be done."""
        key = await asyncio.to_thread(lambda: wanted.key)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._compiling:
            self._compiling[key] = asyncio.create_task(self._compile(key, wanted))
        return await asyncio.shield(self._compiling[key])  # others may wait for it when this client has gone

    async def _compile(self, key: bytes, wanted: Wanted) -> Grammar:
        try:
            async with self._turns:
                grammar = await asyncio.to_thread(self.compile, wanted)
        finally:
            del self._compiling[key]
        self._kept[key] = grammar
        while sum(len(kept.text) for kept in self._kept.values()) > MAX_KEPT_CHARS:
            self._kept.popitem(last=False)
        return grammar

    def compile(self, wanted: Wanted) -> Grammar:
        """Compile in this thread; llguidance lets others run meanwhile. Raises InvalidRequest."""
        lark = Lark(self._vocabulary.marks)
        calls = call_format(wanted.tool_format) if wanted.tool_format else None
        tools = (
            [self._callable(tool) for tool in wanted.tools if tool.name != PLACEHOLDER_TOOL] if calls else []
        )
        if wanted.schema is None:
            assert calls is not None, "there must be something to conform to"
            return self._compiled(call_grammar(lark, calls, tools), frees=bool(calls.end))
        schema = exact_schema(wanted.schema)
        problem = self._problem(schema)
        if problem:
            raise InvalidRequest(f"the JSON schema cannot be enforced: {problem}", reason="schema")
        text = value_grammar(lark, dump_schema(schema), calls if tools else None, tools)
        return self._compiled(text, frees=False)

    def _callable(self, tool: Tool) -> CallableTool:
        """Take as much of a tool's schema as can be compiled, so that the tool can be called in any case."""
        for rewrite in (arguments_schema, structure_only):
            schema = rewrite(tool.input_schema)
            if not self._problem(schema):
                return CallableTool(tool.name, schema)
        return CallableTool(tool.name, any_arguments())

    def _problem(self, schema: dict[str, Any]) -> str:
        """Say why a schema cannot be enforced, or that nothing conforms to it; empty when all is well."""
        text = f"start: %json {dump_schema(schema)}"
        matcher = LLMatcher(self._bytes, text, limits=LIMITS, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        return _first_line(matcher.get_error())

    def _compiled(self, text: str, *, frees: bool) -> Grammar:
        if len(text) > MAX_GRAMMAR_CHARS:
            raise too_large()
        matcher = LLMatcher(self._vocabulary.compiler, text, limits=LIMITS, log_level=0)
        if matcher.is_error():
            problem = _first_line(matcher.get_error())
            raise InvalidRequest(f"the JSON schemas cannot be enforced: {problem}", reason="schema")
        return Grammar(text, frees, matcher)


class _Bytes:
    """A tokenizer of bytes: schemas are tried with it, because a small vocabulary makes that quick."""

    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (256,)
    eos_token_id = 256
    bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _byte_compiler() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()))


def _first_line(problem: str) -> str:
    """Shorten what llguidance says of a schema; empty when it says nothing."""
    if problem.startswith("NoExtension"):
        return "no value conforms to it"
    line, _, rest = problem.rpartition("failed to compile JSON schema: ")[2].partition("\n")
    # What is wrong with a regular expression stands below a picture of the place.
    reasons = [reason for reason in rest.splitlines() if reason.startswith("error: ")] or [""]
    return f"{line} {reasons[0]}".strip()[:300]
