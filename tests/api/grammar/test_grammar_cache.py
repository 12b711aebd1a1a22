"""Which grammars are compiled, how long they are kept, and what becomes of schemas that are too much."""

import asyncio
import threading
from typing import Any

import pytest

from pensieve.api.command.start_report import describe_calls
from pensieve.api.errors import InvalidRequest
from pensieve.api.formats.model_format import build_model_format
from pensieve.api.formats.tool_calls.tool_format import ToolFormat
from pensieve.api.grammar import compile_turns, grammar_cache
from pensieve.api.grammar.answer_constraint import AnswerConstraint, ConstraintSpec
from pensieve.api.grammar.constraint_factory import ConstraintFactory, open_constraint_factory
from pensieve.api.grammar.grammar_cache import Grammar, GrammarCache, GrammarKey
from pensieve.api.schema import Tool

from ...fakes import ByteTokenizer
from ...schemas import record
from ..builders import make_format
from .byte_model import READ, TAGS, Model, make_tokenizer, write


def test_grammars_are_compiled_once_for_all_who_ask_at_the_same_time(model: Model) -> None:
    grammars = GrammarCache(model.vocabulary)
    wanted = GrammarKey((READ,), model.format, None)

    async def run() -> list[Grammar]:
        return list(await asyncio.gather(*(grammars.get(wanted) for _ in range(5)), grammars.get(wanted)))

    found = asyncio.run(run())
    assert all(grammar is found[0] for grammar in found)
    assert asyncio.run(grammars.get(wanted)) is found[0]


def test_a_grammar_is_compiled_anew_for_another_space(model: Model) -> None:
    """The time would tell one API key which tools another one has."""
    grammars, wanted = GrammarCache(model.vocabulary), GrammarKey((READ,), model.format, None)
    own = asyncio.run(grammars.get(wanted, b"alice"))
    assert asyncio.run(grammars.get(wanted, b"alice")) is own
    assert asyncio.run(grammars.get(wanted, b"bob")) is not own


def test_grammars_that_nobody_uses_are_forgotten(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pensieve.api.grammar.grammar_cache.MAX_IDLE_S", 0.0)
    grammars, wanted = GrammarCache(model.vocabulary), [GrammarKey((), None, {"enum": [i]}) for i in range(2)]

    async def run() -> list[Grammar]:
        return [await grammars.get(wanted[i]) for i in (0, 1, 0)]

    first, _, again = asyncio.run(run())
    assert first is not again


def test_few_grammars_are_kept_when_they_are_large(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pensieve.api.grammar.grammar_cache.MAX_KEPT_CHARS", 2000)
    grammars = GrammarCache(model.vocabulary)

    def wanted(i: int) -> GrammarKey:
        return GrammarKey((), None, {"enum": [f"{i}" * 300]})

    async def run() -> tuple[Grammar, Grammar]:
        first = await grammars.get(wanted(0))
        for i in range(1, 9):
            await grammars.get(wanted(i))
        return first, await grammars.get(wanted(0))

    first, again = asyncio.run(run())
    assert first is not again
    assert len(grammars._kept) <= 6


def test_the_start_says_whether_calls_are_kept_to_their_schemas(model: Model) -> None:
    def described(tool_format: ToolFormat) -> str:
        model_format = build_model_format(make_tokenizer(), tool_format)
        return describe_calls(ConstraintFactory(model.vocabulary, model_format))

    assert described(model.format).startswith("calls    kept")
    other = ToolFormat.of_parser("<call>", "</call>", lambda text, _: {"name": text, "arguments": {}})
    assert "no grammar" in described(other)
    assert "tokens" in describe_calls(None)


def test_a_tokenizer_whose_bytes_are_not_known_is_not_constrained() -> None:
    assert open_constraint_factory(make_format(make_tokenizer()), set()) is None
    assert open_constraint_factory(make_format(ByteTokenizer()), {257}) is None


def chain_of_definitions(length: int) -> dict[str, Any]:
    """A schema whose compiler has to follow one reference after the other."""
    links = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}, {"type": "null"}]} for i in range(length)}
    return record("a", a={"$ref": "#/$defs/a0"}) | {"$defs": {**links, f"a{length}": {"type": "string"}}}


def test_a_long_chain_of_references_does_not_overflow_the_stack(model: Model) -> None:
    tool, schema = Tool(name="t", input_schema=chain_of_definitions(1300)), chain_of_definitions(1300)
    grammars = GrammarCache(model.vocabulary)
    for wanted in (GrammarKey((tool,), model.format, None), GrammarKey((), None, schema)):
        assert asyncio.run(grammars.get(wanted)).text


def test_many_tools_are_rather_called_loosely_than_refused(model: Model) -> None:
    schema = record(**{f"parameter_{i}": {"type": "string", "maxLength": 500} for i in range(10)})
    tools = [Tool(name=f"tool_{i}", input_schema=schema) for i in range(250)]
    constraint = AnswerConstraint(ConstraintSpec(model.vocabulary, model.grammar(tools=tools), tags=TAGS))
    write(constraint, '<call>{"name": "tool_249", "arguments": {"x": [1]}}</call>')


def test_slow_grammars_hold_no_other_up(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread can be ended: two that compile for long would keep all other grammars waiting."""
    grammars, ended = GrammarCache(model.vocabulary), threading.Event()
    tools = [Tool(name=f"slow_{i}", input_schema=record(a={"type": "string"})) for i in range(3)]
    slow = [GrammarKey((tool,), model.format, None) for tool in tools]
    value = GrammarKey((), None, {"enum": ["slow"]})
    quick = GrammarKey((READ,), model.format, None)
    compile_now = grammars.compile

    def compile_slowly(key: GrammarKey) -> Grammar:
        if key != quick:
            ended.wait()
        return compile_now(key)

    async def run() -> None:
        monkeypatch.setattr(grammar_cache, "WAIT_S", 0)
        loose = await asyncio.gather(*map(grammars.get, slow))
        assert all(grammar.text != compile_now(key).text for key, grammar in zip(slow, loose, strict=True))
        with pytest.raises(InvalidRequest, match="too long to compile"):
            await grammars.get(value)
        monkeypatch.setattr(grammar_cache, "WAIT_S", 3600)
        assert (await grammars.get(quick)).text == compile_now(quick).text
        ended.set()
        for key in [*slow, value]:
            assert (await grammars.get(key)).text == compile_now(key).text

    monkeypatch.setattr(grammars, "compile", compile_slowly)
    monkeypatch.setattr(compile_turns, "TURN_S", 0)
    try:
        asyncio.run(run())
    finally:
        ended.set()


def test_so_many_tools_that_compiling_each_would_take_long_keep_their_names(model: Model) -> None:
    tools = [Tool(name=f"tool_{i}", input_schema=record(a={"type": "string"})) for i in range(400)]
    constraint = AnswerConstraint(ConstraintSpec(model.vocabulary, model.grammar(tools=tools), tags=TAGS))
    write(constraint, '<call>{"name": "tool_399", "arguments": {"x": [1]}}</call>')


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "array", "items": None},
        None,
        {"enum": []},
        {"type": "string", "minLength": 5, "maxLength": 1},
    ],
)
def test_a_tool_whose_schema_makes_no_sense_can_be_called_all_the_same(model: Model, odd: Any) -> None:
    schema = {"type": "object", "properties": {"path": {"type": "string"}, "odd": odd}}
    tools = [Tool.model_construct(name="odd", input_schema=schema), READ]
    constraint = AnswerConstraint(ConstraintSpec(model.vocabulary, model.grammar(tools=tools), tags=TAGS))
    write(constraint, '<call>{"name": "odd", "arguments": {"path": "a"}}</call>')
