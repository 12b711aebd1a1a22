"""How one model marks its output: one description for prompts, parsers, constraints and budgets."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ..protocols import Tokenizer
from . import harmony
from .detokenizer import Detokenizer, detokenizer_factory
from .thinking_tags import ThinkingTags, find_thinking_tags
from .token_bytes import TokenBytes
from .tool_calls.plain_format import plain_format
from .tool_calls.tool_format import ToolFormat, native_format


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """A model's tokens and tags, built once when the server starts.

    thinking: None for a model that has no tags for its thoughts.
    special_tokens: ids of the tokens that are no text, by their content: special tokens, and tokens of tags.
    new_detokenizer: makes the detokenizer of a completion's answer, without any tags.
    is_harmony: answers are messages with headers, as gpt-oss writes them.
    """

    tool_calls: ToolFormat
    thinking: ThinkingTags | None
    special_tokens: dict[str, int]
    token_bytes: TokenBytes
    new_detokenizer: Callable[[], Detokenizer]
    is_harmony: bool

    def new_message_detokenizer(self) -> Detokenizer:
        """Make the detokenizer of a conversation's answer, which turns gpt-oss's headers into tags."""
        detokenizer = self.new_detokenizer()
        return harmony.HarmonyText(detokenizer) if self.is_harmony else detokenizer

    def starts_thinking(self, prompt: str) -> bool:
        """Whether a rendered prompt has opened the model's thoughts."""
        return self.thinking is not None and prompt.rstrip().endswith(self.thinking.start)


def build_model_format(tokenizer: Tokenizer, native_tools: bool) -> ModelFormat:
    """Read a tokenizer's vocabulary and tags; takes a second for a large vocabulary.

    native_tools: the chat template shows tools, so that the model calls them in a format of its own.
    """
    tool_calls = (native_format(tokenizer) if native_tools else None) or plain_format()
    thinking, token_bytes = find_thinking_tags(tokenizer), TokenBytes(tokenizer)
    tags = (tool_calls.start, tool_calls.end, *((thinking.start, thinking.end) if thinking else ()))
    return ModelFormat(
        tool_calls=tool_calls,
        thinking=thinking,
        special_tokens=find_special_tokens(tokenizer, tags),
        token_bytes=token_bytes,
        new_detokenizer=detokenizer_factory(tokenizer, token_bytes),
        is_harmony=harmony.is_harmony(tokenizer),
    )


def find_special_tokens(tokenizer: Tokenizer, tags: Collection[str]) -> dict[str, int]:
    """Return the ids, by content, of the special tokens and of the tokens that are one of `tags`."""
    added = tokenizer.added_tokens_decoder.items()
    return {token.content: i for i, token in added if token.special or token.content in tags}
