"""Which messages gpt-oss may write: their headers are constrained, and the calls and values in them."""

import asyncio
from typing import Any

import pytest

from pensieve.api.answer_options import answer_options
from pensieve.api.formats import harmony
from pensieve.api.formats.harmony import HarmonyText
from pensieve.api.grammar.constraint_factory import ConstraintFactory
from pensieve.api.grammar.message_constraint import MessageConstraint, MessageSpec
from pensieve.api.grammar.token_constraint import TokenConstraint
from pensieve.api.grammar.vocabulary import make_vocabulary
from pensieve.api.schema import MessagesRequest

from ...fakes import IM_END, ByteTokenizer
from ...schemas import record
from ..builders import make_format
from ..templates import MESSAGES_WITH_HEADERS

TOKENIZER = ByteTokenizer(MESSAGES_WITH_HEADERS, tool_parser=None, harmony=True)
TOOLS = [
    {"name": "read", "input_schema": record("path", path={"type": "string"})},
    {"name": "ping", "input_schema": {"type": "object"}},
]
ONE = record("a", a={"type": "integer"})
SCHEMA = {"output_config": {"format": {"type": "json_schema", "schema": ONE}}}
THOUGHTS = "<|channel|>analysis<|message|>Hm, <x>.<|end|>"
NEXT = "<|start|>assistant"
CALL = '<|channel|>commentary to=functions.read <|constrain|>json<|message|>{"path": "a<|end|>"}'
CALL_FIRST = ' to=functions.read<|channel|>commentary json<|message|>{"path": "a"}'
PING = "<|channel|>analysis to=functions.ping code<|message|>{}"
WORDS = "<|channel|>commentary<|message|>Let me look.<|end|>"
FINAL = "<|channel|>final<|message|>Yes."
VALUE = '<|channel|>final <|constrain|>json<|message|>{"a": 3}'


@pytest.fixture(scope="module")
def factory() -> ConstraintFactory:
    model_format = make_format(TOKENIZER)
    added = [token.content.encode() for token in TOKENIZER.added_tokens_decoder.values()]
    table = [*(bytes([byte]) for byte in range(256)), *added]
    marks = model_format.special_tokens
    vocabulary = make_vocabulary(table, marks, {IM_END, marks[harmony.CALL]})
    assert vocabulary is not None
    return ConstraintFactory(vocabulary, model_format)


def constraint(factory: ConstraintFactory, **fields: Any) -> MessageConstraint:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS}
    spec = asyncio.run(factory.spec(answer_options(MessagesRequest.model_validate(body | fields))))
    assert isinstance(spec, MessageSpec)
    return spec.constraint(False, b"")


def tokens_of(text: str) -> list[int]:
    """Encode an answer; within a call's strings, tags are letters."""
    head, quote, rest = text.partition('"')
    return TOKENIZER.encode(head) + list((quote + rest).encode())


def allows(constraint: TokenConstraint[Any], token: int) -> bool:
    mask = constraint.mask()
    return mask is None or bool(mask[token // 8] >> token % 8 & 1)


def refused_at(constraint: TokenConstraint[Any], tokens: list[int]) -> str | None:
    """Return the text up to the token that may not come; None where all may."""
    for place, token in enumerate(tokens, 1):
        if not allows(constraint, token):
            assert not constraint.accept(token)
            return TOKENIZER.decode(tokens[:place])
        assert constraint.accept(token)
    return None


@pytest.mark.parametrize(
    ("fields", "taken", "refused"),
    [
        (
            {},
            [
                CALL,
                CALL_FIRST,
                PING,
                THOUGHTS + NEXT + CALL,
                WORDS + NEXT + CALL_FIRST,
                FINAL,
                VALUE,
                NEXT + FINAL,
            ],
            [
                ("<|channel|>commentary to=python", "p"),
                (CALL.replace("path", "name"), "n"),
                (PING.replace("ping", "pong"), "o"),
                ("Yes", "Y"),
            ],
        ),
        (
            {"tool_choice": {"type": "any"}},
            [CALL, PING, THOUGHTS + NEXT + THOUGHTS + NEXT + CALL_FIRST],
            [(THOUGHTS + NEXT + FINAL, "f"), (WORDS, "<|message|>"), (FINAL, "f")],
        ),
        ({"tool_choice": {"type": "tool", "name": "ping"}}, [PING, THOUGHTS + NEXT + PING], [(CALL, "r")]),
        (SCHEMA, [VALUE, THOUGHTS + NEXT + VALUE, CALL], [(FINAL, "Y"), (WORDS, "<|message|>")]),
        (SCHEMA | {"tools": []}, [VALUE], [(CALL, "c")]),
    ],
)
def test_what_may_come(
    factory: ConstraintFactory, fields: Any, taken: list[str], refused: list[tuple[str, str]]
) -> None:
    for text in taken:
        follower = constraint(factory, **fields)
        assert refused_at(follower, tokens_of(text)) is None
        assert allows(follower, IM_END), "the answer may end there"
        assert follower.accept(IM_END)
    for text, end in refused:
        found = refused_at(constraint(factory, **fields), tokens_of(text))
        assert (found or "").endswith(end), text


@pytest.mark.parametrize("fields", [{"tool_choice": {"type": "any"}}, SCHEMA])
def test_no_answer_ends_before_what_is_required(factory: ConstraintFactory, fields: Any) -> None:
    for text in ("", THOUGHTS, THOUGHTS.removesuffix("<|end|>"), THOUGHTS + NEXT):
        follower = constraint(factory, **fields)
        assert refused_at(follower, tokens_of(text)) is None
        for token in (IM_END, *TOKENIZER.encode(harmony.CALL)):
            assert not follower.accept(token)


def test_thoughts_and_words_are_free(factory: ConstraintFactory) -> None:
    follower = constraint(factory)
    assert refused_at(follower, tokens_of("<|channel|>analysis<|message|>")) is None
    assert follower.mask() is None
    assert refused_at(follower, [*b"<|end|> in letters"]) is None
    assert follower.mask() is None
    again = follower.resumed(tokens_of(THOUGHTS + NEXT))
    assert refused_at(again, tokens_of("<|channel|>commentary to=functions.w")) is not None


def test_a_message_that_has_begun_goes_on_within_its_text(
    factory: ConstraintFactory,
) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It"}]
    follower = constraint(factory, messages=messages)
    assert refused_at(follower, [*b" is."]) is None
    assert follower.accept(IM_END)


def test_letters_of_a_tag_in_a_file_are_text() -> None:
    text = make_format(TOKENIZER).new_message_detokenizer()
    assert isinstance(text, HarmonyText)
    assert text.add(tokens_of(CALL)).endswith('read<|message|>{"path": "a<|end|>"}')
