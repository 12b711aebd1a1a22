"""Compiles the grammars that answers must conform to, off the event loop, and caches them."""

import asyncio
import hashlib
import json
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from ..answer_options import TextRule
from ..errors import InvalidRequest
from ..formats.grammars.callable_tool import CallableTool
from ..formats.grammars.json_schema import (
    SchemaError,
    SchemaTooLarge,
    answer_schemas,
    any_arguments,
    arguments_schema,
    dump_schema,
    left_out_of,
    structure_only,
)
from ..formats.grammars.lark import Lark
from ..formats.tool_calls.tool_format import ToolFormat
from ..schema import Tool
from .answer_grammar import call_grammar, message_grammar, rule_grammar, value_grammar
from .compile_turns import TURN_S, CompileTurns
from .deep_stack import on_deep_stack
from .vocabulary import Vocabulary

MAX_GRAMMAR_CHARS = 512 * 1024
MAX_TOOLS = 300  # whose schemas are compiled one by one first, in some 10 ms each
MAX_KEPT_CHARS = 1024 * 1024  # of all cached grammars; a character takes about 200 bytes once compiled
MAX_IDLE_S = 3600.0
WAIT_S = 2 * TURN_S  # that a request waits for a grammar
MAX_AWAITED = 64  # grammars that are compiled or wait for it

NO_VALUE = "no value conforms to it"

logger = logging.getLogger(__name__)

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

    text: its source, in llguidance's dialect of Lark.
    continues_as_text: free text may follow the grammar's text; otherwise the answer ends with it.
    start: a matcher at the grammar's beginning, which only `begin` uses.
    """

    text: str
    continues_as_text: bool
    start: LLMatcher

    def begin(self) -> LLMatcher:
        """Make a matcher at the beginning of the grammar."""
        return self.start.deep_copy()


@dataclass(frozen=True, slots=True)
class GrammarKey:
    """The source of a grammar. schema, rule: of the whole answer; without both, a grammar of calls.

    marks: the model's silent ones.
    heads: headers of messages that are no calls, of a model that answers in messages; else empty.
    """

    tools: tuple[Tool, ...]
    tool_format: ToolFormat | None
    schema: dict[str, Any] | None
    rule: TextRule | None = None
    marks: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @property
    def digest(self) -> bytes:
        """A hash that is the same for all keys that compile to the same grammar."""
        tags = [self.tool_format.start, self.tool_format.end] if self.tool_format else []
        tools = [[tool.name, tool.input_schema] for tool in self.tools]
        rule = [self.rule.kind, self.rule.texts] if self.rule else None
        return hashlib.sha256(
            json.dumps([tags, tools, self.schema, rule, self.marks, self.heads]).encode()
        ).digest()


class GrammarCache:
    """The grammars of one model's requests, least recently used first."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._bytes = _byte_compiler()
        self._kept: OrderedDict[bytes, Grammar] = OrderedDict()
        self._used_s: dict[bytes, float] = {}
        self._compiling: dict[bytes, asyncio.Task[Grammar]] = {}
        self._turns = CompileTurns()

    async def get(self, key: GrammarKey, space: bytes = b"") -> Grammar:
        """Return the grammar, compiled now or before. Raises InvalidRequest where it cannot be compiled.

        space: requests of another one do not find it, as the time would tell them what others' tools are.
        One that takes longer than WAIT_S goes on to be compiled, for later requests; until then calls are
        kept to their tools' names, and answers with a schema are refused.
        """
        digest = space + await asyncio.to_thread(lambda: key.digest)
        if digest in self._kept:
            self._kept.move_to_end(digest)
            self._used_s[digest] = time.monotonic()
            return self._kept[digest]
        if digest not in self._compiling:
            if len(self._compiling) >= MAX_AWAITED:
                return await self._in_place_of(key)
            task = self._compiling[digest] = asyncio.create_task(self._compile(digest, key))
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may wait
        # Other clients may wait for the grammar when this one has gone.
        compiling = self._compiling[digest]
        await asyncio.wait({compiling}, timeout=WAIT_S)
        return compiling.result() if compiling.done() else await self._in_place_of(key)

    async def _in_place_of(self, key: GrammarKey) -> Grammar:
        """Return the grammar that stands for one that takes too long. Raises InvalidRequest."""
        if key.schema is not None or key.rule is not None or key.tool_format is None:
            raise InvalidRequest("the answer's schema takes too long to compile", reason="schema")
        logger.info(
            "the schemas of %d tools take too long to compile: calls are kept to names", len(key.tools)
        )
        return await asyncio.to_thread(on_deep_stack, lambda: self._names_only(key))

    def _names_only(self, key: GrammarKey) -> Grammar:
        """Compile the grammar of calls of the key's tools with any arguments."""
        assert key.tool_format is not None
        tools = [any_call(tool) for tool in key.tools if not tool.is_placeholder]
        text = self._text(key, key.tool_format, tools, None)
        return self._compiled(text, continues_as_text=key.tool_format.may_go_on)

    async def _compile(self, digest: bytes, key: GrammarKey) -> Grammar:
        try:
            grammar = await self._turns.run(lambda: self.compile(key))
        except SchemaError as error:
            raise InvalidRequest(str(error), reason="schema") from error
        finally:
            del self._compiling[digest]
        self._kept[digest] = grammar
        self._used_s[digest] = time.monotonic()
        self._forget()
        return grammar

    def _forget(self) -> None:
        """Drop grammars unused for MAX_IDLE_S, and the least recently used beyond MAX_KEPT_CHARS."""
        for digest in list(self._kept):
            num_chars = sum(len(kept.text) for kept in self._kept.values())
            if num_chars <= MAX_KEPT_CHARS and time.monotonic() - self._used_s[digest] <= MAX_IDLE_S:
                return
            del self._kept[digest], self._used_s[digest]

    def compile(self, key: GrammarKey) -> Grammar:
        """Compile in this thread, which needs a deep stack, and release the GIL. Raises SchemaError."""
        calls = key.tool_format if key.tool_format and key.tool_format.is_constrained else None
        tools = [tool for tool in key.tools if not tool.is_placeholder] if calls else []
        if key.rule is not None:
            return self._compiled_rule(key.rule, calls, tools)
        schema = None if key.schema is None else self._answer_schema(key.schema)
        text = self._text(key, calls, self._callables(calls, tools), schema)
        if len(text) > MAX_GRAMMAR_CHARS:  # keep the tools' names at least
            text = self._text(key, calls, [any_call(tool) for tool in tools], schema)
        return self._compiled(
            text, continues_as_text=schema is None and calls is not None and calls.may_go_on
        )

    def _answer_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return as much of an answer's schema as can be enforced. Raises SchemaError."""
        first = ""
        for looser, left_out in answer_schemas(schema):
            problem = self._problem(f"start: %json {dump_schema(looser)}")
            if not problem:
                if left_out:
                    names = ", ".join(sorted(left_out))
                    logger.info("an answer's JSON schema is enforced without its %s", names)
                return looser
            first = first or problem
            if problem == NO_VALUE or "Unsatisfiable" in problem:
                break
        raise SchemaError(f"the JSON schema cannot be enforced: {first}")

    def _compiled_rule(self, rule: TextRule, tool_format: ToolFormat | None, tools: list[Tool]) -> Grammar:
        problem = self._problem(rule_grammar(Lark({}), rule, None, []))
        if problem:
            raise SchemaError(f"the {rule.kind} of the answer's format cannot be enforced: {problem}")
        lark = Lark(self._vocabulary.special_tokens)
        called = [self._callable(tool_format, tool) for tool in tools] if tool_format else []
        text = rule_grammar(lark, rule, tool_format if tools else None, called)
        return self._compiled(text, continues_as_text=False)

    def _text(
        self,
        key: GrammarKey,
        tool_format: ToolFormat | None,
        tools: list[CallableTool],
        schema: dict[str, Any] | None,
    ) -> str:
        """Write the grammar of calls, of a message, or of a value that conforms to a schema."""
        lark = Lark(self._vocabulary.special_tokens)
        if key.heads:
            return message_grammar(lark, key.heads, tool_format, tools)
        if schema is not None:
            calls = tool_format if tools else None
            return value_grammar(lark, dump_schema(schema), calls, tools, key.marks)
        assert tool_format is not None, "there must be something to conform to"
        return call_grammar(lark, tool_format, tools, key.marks)

    def _callables(self, tool_format: ToolFormat | None, tools: list[Tool]) -> list[CallableTool]:
        """Return the tools with as much of their schemas as can be compiled in bounded time."""
        if tool_format is None:
            return []
        num_chars = sum(len(json.dumps(tool.input_schema)) for tool in tools)
        if len(tools) > MAX_TOOLS or num_chars > MAX_GRAMMAR_CHARS:
            logger.info("%d tools are too many: calls are kept to their names only", len(tools))
            return [any_call(tool) for tool in tools]
        return [self._callable(tool_format, tool) for tool in tools]

    def _callable(self, tool_format: ToolFormat, tool: Tool) -> CallableTool:
        """Return a tool with as much of its schema as can be compiled, so that it can always be called."""
        for rewrite in (arguments_schema, structure_only):
            try:
                found = CallableTool(tool.name, rewrite(tool.input_schema))
                if not self._problem(call_grammar(Lark({}), tool_format, [found])):
                    names = left_out_of(tool.input_schema) if rewrite is arguments_schema else {"bounds"}
                    if names:
                        logger.info(
                            "calls of %s are constrained without %s", tool.name, ", ".join(sorted(names))
                        )
                    return found
            except SchemaError:
                continue
        logger.info("calls of %s are constrained to its name only", tool.name)
        return any_call(tool)

    def _problem(self, text: str) -> str:
        """Return why a grammar cannot be enforced, or that no text conforms to it; empty if neither."""
        matcher = LLMatcher(self._bytes, text, limits=LIMITS, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        return _shorten_problem(matcher.get_error())

    def _compiled(self, text: str, *, continues_as_text: bool) -> Grammar:
        if len(text) > MAX_GRAMMAR_CHARS:
            raise SchemaTooLarge
        matcher = LLMatcher(self._vocabulary.compiler, text, limits=LIMITS, log_level=0)
        if matcher.is_error():
            problem = _shorten_problem(matcher.get_error())
            raise SchemaError(f"the JSON schemas cannot be enforced: {problem}")
        return Grammar(text, continues_as_text, matcher)


def any_call(tool: Tool) -> CallableTool:
    """Return a tool that may be called with any arguments."""
    return CallableTool(tool.name, any_arguments())


class _Bytes:
    """A tokenizer of bytes. Schemas are first compiled for it: a small vocabulary makes that fast."""

    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (256,)
    eos_token_id = 256
    bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _byte_compiler() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()))


def _shorten_problem(problem: str) -> str:
    """Shorten llguidance's error message of a schema to one line; empty when there is none."""
    if problem.startswith("NoExtension"):
        return NO_VALUE
    line, _, rest = problem.rpartition("failed to compile JSON schema: ")[2].partition("\n")
    # For a regular expression, llguidance first draws the place of the error and then names the reason.
    reasons = [reason for reason in rest.splitlines() if reason.startswith("error: ")] or [""]
    return f"{line} {reasons[0]}".strip()[:300]
