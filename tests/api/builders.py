"""What the server's start makes of a tokenizer, for tests without a server."""

from collections.abc import Callable, Collection
from typing import Any

from pensieve.api.answer_options import answer_options
from pensieve.api.formats.detokenizer import Detokenizer, detokenizer_factory
from pensieve.api.formats.model_format import ModelFormat, build_model_format, find_special_tokens
from pensieve.api.formats.token_bytes import TokenBytes
from pensieve.api.grammar.vocabulary import Vocabulary, make_vocabulary
from pensieve.api.prompt.prompt import Prompt, PromptBuilder
from pensieve.api.prompt.template import ChatTemplate
from pensieve.api.schema import CountTokensRequest

from ..fakes import FakeModel


def new_detokenizer(tokenizer: Any) -> Detokenizer:
    return make_detokenizer_factory(tokenizer)()


def make_detokenizer_factory(tokenizer: Any) -> Callable[[], Detokenizer]:
    return detokenizer_factory(tokenizer, TokenBytes(tokenizer))


def make_format(tokenizer: Any) -> ModelFormat:
    return build_model_format(tokenizer, ChatTemplate(tokenizer).tool_format)


def make_prompt_builder(tokenizer: Any, vocab_size: int = 1000) -> PromptBuilder:
    model = FakeModel(vocab_size=vocab_size)
    return PromptBuilder(model, tokenizer, ChatTemplate(tokenizer), make_format(tokenizer))


def build_prompt(builder: PromptBuilder, body: dict[str, Any]) -> Prompt:
    request = CountTokensRequest.model_validate(body)
    return builder.build_now(request, answer_options(request))


def read_vocabulary(tokenizer: Any, eos_ids: Collection[int], tags: Collection[str] = ()) -> Vocabulary:
    table = TokenBytes(tokenizer).table
    assert table is not None
    vocabulary = make_vocabulary(table, find_special_tokens(tokenizer, tags), eos_ids)
    assert vocabulary is not None
    return vocabulary
