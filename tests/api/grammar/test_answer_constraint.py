"""What is watched for, what begins where, and what is refused."""

import asyncio

import pytest

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.detokenizer import ByteDetokenizer
from pensieve.api.formats.thinking_tags import ThinkingTags
from pensieve.api.grammar.answer_constraint import AnswerConstraint, ConstraintSpec
from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.output.parser import OutputParser
from pensieve.api.output.resumable_stream import ResumableTokenStream
from pensieve.api.output.thinking_budget import BudgetedReader, ThinkingBudget
from pensieve.api.schema import Tool
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.sequence import Request

from ...fakes import Script, ScriptedScheduler
from ...schemas import opened, record
from .byte_model import READ, TAGS, Model, with_tokens, write

CALL = '{"name": "read", "arguments": {"path": "a"}}'


def allowed(constraint: AnswerConstraint) -> set[str]:
    """Show what may come next."""
    mask = constraint.mask()
    assert mask is not None
    table = constraint._spec.vocabulary.bytes_of
    return {table[i].decode("utf-8", "replace") for i in range(len(table)) if mask[i // 8] >> i % 8 & 1}


def test_text_is_free_up_to_a_tag_and_behind_the_call(model: Model) -> None:
    constraint = AnswerConstraint(model.spec())
    write(constraint, "I <call the tool <cal")
    assert constraint.mask() is None
    constraint = AnswerConstraint(model.spec())
    write(constraint, "Well: ")
    assert constraint.accept(model.token("<call>"))
    assert "x" not in allowed(constraint)
    write(constraint, CALL)
    assert constraint.accept(model.token("</call>"))
    assert constraint.mask() is None
    write(constraint, " and on")


def test_a_tag_spelled_in_letters_is_a_tag(model: Model) -> None:
    constraint = AnswerConstraint(model.spec())
    write(constraint, "so <call>\n{")
    assert allowed(constraint) == {'"', " ", "\t", "\n"}
    write(constraint, CALL[1:] + "</call>")
    assert constraint.mask() is None
    write(constraint, "<call>{")
    assert constraint.mask() is not None


def test_text_that_speaks_of_the_tag_in_letters_stays_free(model: Model) -> None:
    constraint = AnswerConstraint(model.spec())
    write(constraint, "Calls begin with `<call>`, or <call> and a line:\n<call>\n\nthen more <call>")
    assert constraint.mask() is None
    write(constraint, " {")
    assert "x" not in allowed(constraint)


def test_an_answer_may_not_end_in_thoughts_when_something_is_still_owed(model: Model) -> None:
    constraint = AnswerConstraint(model.spec(forced=True), starts_thinking=True)
    write(constraint, "hmm ")
    assert not constraint.accept(256)
    assert "<|end|>" not in allowed(constraint)
    write(constraint, "well</think>")
    assert allowed(constraint) == {"<call>", "<", " ", "\n", "<call>{"}
    free = AnswerConstraint(model.spec(), starts_thinking=True)
    write(free, "hmm ")
    assert free.accept(256)


def test_an_answer_may_not_end_within_a_call(model: Model) -> None:
    constraint = AnswerConstraint(model.spec())
    assert constraint.accept(model.token("<call>"))
    assert not constraint.accept(256)
    assert "<|end|>" not in allowed(constraint)
    write(constraint, CALL)
    assert constraint.accept(model.token("</call>"))
    assert constraint.accept(256)


def test_an_end_tag_in_a_string_is_text(model: Model) -> None:
    constraint = AnswerConstraint(model.spec())
    write(constraint, '<call>{"name": "read", "arguments": {"path": "</call> <call>')
    assert constraint.mask() is not None
    assert not constraint.accept(model.token("</call>")), "the tag itself would end the call for its reader"
    write(constraint, '"}}')
    assert allowed(constraint) == {"</call>", "<", "\n"}


def test_a_token_that_completes_the_tag_may_go_on_as_the_call_does(model: Model) -> None:
    constraint = AnswerConstraint(model.spec())
    write(constraint, "a <call")
    assert constraint.accept(model.token(">{"))
    write(constraint, CALL[1:] + "</call>")
    assert constraint.mask() is None


def test_a_token_that_goes_on_as_no_call_does_is_refused_and_others_are_not(model: Model) -> None:
    vocabulary = with_tokens(model.vocabulary, [b">x", b"l>{x"])
    grammar = GrammarCache(vocabulary).compile(GrammarKey((READ,), model.format, None))
    constraint = AnswerConstraint(ConstraintSpec(vocabulary, grammar, tags=TAGS))
    write(constraint, "a <cal")
    token = vocabulary.bytes_of.index(b"l>{x")
    assert constraint.mask() is None
    assert not constraint.accept(token)
    mask = constraint.mask()
    assert mask is not None
    forbidden = {i for i in range(len(vocabulary.bytes_of)) if not mask[i // 8] >> i % 8 & 1}
    assert forbidden == {token}
    write(constraint, "l>{")
    assert constraint.mask() is not None


def test_a_token_that_ends_the_call_may_hold_more(model: Model) -> None:
    constraint = AnswerConstraint(model.spec())
    write(constraint, f"<call>{CALL}</call")
    assert constraint.accept(model.token(">\n\n"))
    assert constraint.mask() is None
    write(constraint, f"<call>{CALL}")


def test_a_call_that_must_be_made_comes_first(model: Model) -> None:
    constraint = AnswerConstraint(model.spec(forced=True))
    assert allowed(constraint) == {"<call>", "<", " ", "\n", "<call>{"}
    write(constraint, f"\n<call>{CALL}</call>")
    assert constraint.mask() is None


@pytest.mark.parametrize("starts_thinking", [False, True])
def test_some_text_may_stand_before_a_call_that_must_be_made(model: Model, starts_thinking: bool) -> None:
    for text in ("I look <cal.\n", "<think>I could <call></think>Now: "):
        constraint = AnswerConstraint(model.spec(forced=True, text_before=20), starts_thinking)
        write(constraint, f"Hm.</think>{text}" if starts_thinking else text)
        assert constraint.mask() is None
        assert not constraint.accept(model.token("<|end|>"))
        write(constraint, f"<call>{CALL}</call>")
        assert constraint.accept(model.token("<|end|>"))
    write(constraint := AnswerConstraint(model.spec(forced=True, text_before=20)), "x" * 20)
    assert allowed(constraint) == {"<call>", "<", " ", "\n", "<call>{"}


def test_thoughts_are_free_and_may_speak_of_tags(model: Model) -> None:
    constraint = AnswerConstraint(model.spec(forced=True), starts_thinking=True)
    write(constraint, "Shall I <call> it? <think> No.")
    assert constraint.mask() is None
    assert constraint.accept(model.token("</think>"))
    assert allowed(constraint) == {"<call>", "<", " ", "\n", "<call>{"}


def test_a_model_may_open_its_thoughts_itself_but_only_at_first(model: Model) -> None:
    spec = model.spec(forced=True, may_think=True)
    constraint = AnswerConstraint(spec)
    assert "<think>" in allowed(constraint)
    assert constraint.accept(model.token("<think>"))
    write(constraint, "hm")
    assert constraint.mask() is None
    write(constraint, "</think>\n")
    assert "<think>" not in allowed(constraint)
    write(constraint, f"<call>{CALL}</call>")
    assert constraint.accept(model.token("<think>"))
    write(constraint, "</think> done")
    assert constraint.mask() is None, "what must be called has been called"
    assert "<think>" not in allowed(AnswerConstraint(model.spec(forced=True)))


def test_an_answer_goes_on_where_thoughts_were_closed_for_the_model(model: Model) -> None:
    first = AnswerConstraint(model.spec(forced=True), starts_thinking=True)
    write(first, "endless")
    spelled = model.vocabulary.spell(b"endless\n</think>\n\n")
    second = first.resumed(spelled)
    assert "x" not in allowed(second)
    assert first.mask() is None, "they share nothing"


def test_a_constraint_survives_the_end_of_a_thinking_budget(model: Model) -> None:
    """The closing tag is not sampled, but a part of the next request's prompt."""
    constraint = AnswerConstraint(model.spec(forced=True), starts_thinking=True)
    scheduler = ScriptedScheduler()
    scheduler.play(Script([model.vocabulary.spell(b"so many thoughts")], hangs=True), Script())
    closing = model.vocabulary.spell(b"\n</think>\n\n")
    detokenizer = ByteDetokenizer(model.vocabulary.bytes_of)
    tags = ThinkingTags("<think>", "</think>")
    parser = OutputParser(detokenizer, AnswerFormat(thinking=tags, starts_thinking=True))
    request = Request([1], SamplingParams(), 99, constraint=constraint)

    async def run() -> None:
        token_stream = ResumableTokenStream(scheduler.submit, request)
        await BudgetedReader(token_stream, parser, ThinkingBudget(4, tuple(closing))).read()

    asyncio.run(run())
    following = scheduler.requests[1].constraint
    assert isinstance(following, AnswerConstraint)
    write(following, f"<call>{CALL}</call>")


def test_an_answer_that_is_one_value_ends_with_it(model: Model) -> None:
    grammar = model.grammar({"type": "object", "properties": {"a": {"type": "integer"}}}, tools=())
    constraint = AnswerConstraint(ConstraintSpec(model.vocabulary, answer=grammar))
    write(constraint, '{"a": 12')
    assert "<|end|>" not in allowed(constraint)
    write(constraint, "}")
    assert allowed(constraint) == {"<|end|>"}
    assert not constraint.accept(65)
    assert constraint.accept(256)


def test_numbers_that_no_reader_can_hold_are_not_written(model: Model) -> None:
    grammar = model.grammar({"type": "number"}, tools=())
    constraint = AnswerConstraint(ConstraintSpec(model.vocabulary, answer=grammar))
    write(constraint, "12")
    assert allowed(constraint) & set("eE") == set()


def test_a_value_or_calls(model: Model) -> None:
    grammar = model.grammar({"type": "integer"})
    for answer in ("17", f"<call>{CALL}</call>\n<call>{CALL}</call>"):
        constraint = AnswerConstraint(ConstraintSpec(model.vocabulary, answer=grammar))
        write(constraint, answer)
        assert "<|end|>" in allowed(constraint)
        assert "x" not in allowed(constraint)


def test_arguments_come_in_any_order_each_once_and_the_required_ones_in_any_case(model: Model) -> None:
    """Claude Code sends calls back in an order of its own, and models go on as they find it."""
    number = {"type": "integer"}
    tools = [
        Tool(name="closed", input_schema=record("a b", a=number, b=number, c=number)),
        Tool(name="open", input_schema=opened(record("a", a=number, b=number))),
        Tool(name="none", input_schema=record()),
    ]
    grammar = model.grammar(tools=tools)

    def begin(name: str, arguments: str) -> AnswerConstraint:
        spec = ConstraintSpec(model.vocabulary, grammar, grammar, TAGS)
        constraint = AnswerConstraint(spec)
        write(constraint, f'<call>{{"name": "{name}", "arguments": {arguments}')
        return constraint

    write(begin("closed", '{"c": 1, "b": 2, "a": 3'), "}}</call>")
    write(begin("closed", '{"a": 1, "b": 2'), "}}</call>")
    assert "}" not in allowed(begin("closed", '{"c": 1, "b": 2'))
    assert "}" not in allowed(begin("closed", "{"))
    assert allowed(begin("closed", '{"b": 2, "')) == {"a", "c"}
    assert allowed(begin("closed", '{"b": 2, "a": 1, "c": 3')) & set(",") == set()
    write(begin("open", '{"z": [null], "a": 1, "y": {"a": "b"}, "b": 2'), "}}</call>")
    assert '"' not in allowed(begin("open", '{"a": 1, "a'))
    write(begin("none", "{"), "}}</call>")
    assert '"' not in allowed(begin("none", "{"))


def test_no_way_of_cutting_a_text_into_tokens_is_preferred(model: Model) -> None:
    """Where one text alone could follow, a single way to write it was left, which led a real model astray."""
    constraint = AnswerConstraint(model.spec(forced=True))
    assert allowed(constraint) >= {"<call>", "<", "<call>{"}
    write(constraint, '<call>{"name')
    assert allowed(constraint) == {'"', '":'}


def test_blanks_between_parts_have_an_end(model: Model) -> None:
    constraint = AnswerConstraint(
        ConstraintSpec(model.vocabulary, answer=model.grammar({"type": "object"}, tools=()))
    )
    write(constraint, "{" + " " * 8)
    assert " " not in allowed(constraint)


def test_tokens_of_padded_embeddings_are_nothing_in_text_and_nothing_in_a_call(model: Model) -> None:
    constraint = AnswerConstraint(model.spec())
    assert constraint.accept(100_000)
    assert constraint.accept(model.token("<call>"))
    assert not constraint.accept(100_000)
    assert constraint.mask() is not None
