"""A model as constraints see it: one token a byte, a few that hold more, and tags of one token."""

import json
from collections import abc
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pensieve.api.formats.tag_follower import AnswerTags
from pensieve.api.formats.tool_calls.tool_format import ToolFormat
from pensieve.api.grammar.answer_constraint import AnswerConstraint, ConstraintSpec
from pensieve.api.grammar.grammar_cache import Grammar, GrammarCache, GrammarKey
from pensieve.api.grammar.vocabulary import Vocabulary, make_vocabulary
from pensieve.api.schema import Tool

from ...schemas import record
from ..builders import read_vocabulary

ADDED = ("<|end|>", "<call>", "</call>", "<think>", "</think>")
MERGED = ("<call>{", ">{", '>{"', "k>\n", 'k>{"', ">\n\n", '":', '"}')
TAGS = AnswerTags([b"<call>"], b"</call>", (b"<think>", b"</think>"))
READ = Tool(name="read", input_schema=record("path", path={"type": "string"}))


def make_tokenizer(special: bool = False) -> Any:
    """Bytes, a few longer tokens, and added ones, of which all but the end are special only if told."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens([AddedToken(tag, special=special) for tag in ADDED[1:]])
    wrapper: Any = PreTrainedTokenizerFast
    fast = wrapper(tokenizer_object=tokenizer, eos_token="<|end|>")
    return TokenizerWrapper(
        fast, tool_call_start="<call>", tool_call_end="</call>", tool_parser=lambda text, _: json.loads(text)
    )


class Model:
    """A vocabulary with tokens that hold more than a tag's end, and the spec of one tool."""

    def __init__(self) -> None:
        tokenizer = make_tokenizer()
        known = read_vocabulary(tokenizer, {256}, ADDED)
        self.vocabulary: Vocabulary = with_tokens(known, [text.encode() for text in MERGED])
        self.format = ToolFormat.of_parser("<call>", "</call>", lambda text, _: json.loads(text))

    def grammar(self, schema: dict[str, Any] | None = None, tools: abc.Sequence[Tool] = (READ,)) -> Grammar:
        return GrammarCache(self.vocabulary).compile(
            GrammarKey(tuple(tools), self.format if tools else None, schema)
        )

    def spec(self, **settings: Any) -> ConstraintSpec:
        grammar = self.grammar()
        if settings.pop("forced", False):
            settings["answer"] = grammar
        return ConstraintSpec(self.vocabulary, grammar, tags=TAGS, **settings)

    def token(self, text: str) -> int:
        return self.vocabulary.bytes_of.index(text.encode())


def with_tokens(vocabulary: Vocabulary, more: list[bytes]) -> Vocabulary:
    """The same vocabulary with longer tokens at its end."""
    longer = make_vocabulary([*vocabulary.bytes_of, *more], vocabulary.special_tokens, vocabulary.eos_ids)
    assert longer is not None
    return longer


def write(constraint: AnswerConstraint, text: str) -> None:
    """Write text in single bytes; every one must be allowed by the mask, and accepted."""
    for byte in text.encode():
        mask = constraint.mask()
        token = constraint._spec.vocabulary.ids_of_bytes[byte]
        assert mask is None or mask[token // 8] >> token % 8 & 1, f"{chr(byte)!r} in {text!r}"
        assert constraint.accept(token), f"{chr(byte)!r} in {text!r}"
