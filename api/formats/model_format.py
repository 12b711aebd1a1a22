"""How one model marks its output: one description for prompts, parsers, constraints and budgets."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ..protocols import Tokenizer
from . import harmony
from .detokenizer import Detokenizer, detokenizer_factory
from .thinking_tags import (
    MESSAGE_START,
    RECIPIENT,
    TO_ALL,
    TO_USER,
    ThinkingTags,
    find_silent_marks,
    find_thinking_tags,
    find_wrap,
)
from .token_bytes import TokenBytes
from .tool_calls.plain_format import plain_format
from .tool_calls.tool_format import ToolFormat


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """A model's tokens and tags, built once when the server starts.

    thinking: None for a model that has no tags for its thoughts.
    silent: marks around the model's text, which are no part of it.
    wrap: tags around the whole of an answer's text; None for a model that has none.
    special_tokens: ids of the tokens that are no text, by their content: special tokens, and tokens of tags.
    new_detokenizer: makes the detokenizer of a completion's answer, without any tags.
    harmony_marks: the special tokens that part messages with headers, as gpt-oss writes them; else none.
    """

    tool_calls: ToolFormat
    thinking: ThinkingTags | None
    silent: tuple[str, ...]
    wrap: tuple[str, str] | None
    special_tokens: dict[str, int]
    token_bytes: TokenBytes
    new_detokenizer: Callable[[], Detokenizer]
    harmony_marks: dict[int, str]

    @property
    def is_harmony(self) -> bool:
        """Whether answers are messages with headers."""
        return bool(self.harmony_marks)

    def new_message_detokenizer(self, in_text: bool = False) -> Detokenizer:
        """Make the detokenizer of a conversation's answer, which turns gpt-oss's headers into tags.

        in_text: the prompt ends within the text of a message.
        """
        detokenizer = self.new_detokenizer()
        if not self.is_harmony:
            return detokenizer
        return harmony.HarmonyText(detokenizer, self.harmony_marks, in_text)

    def begun(self, prompt: str) -> str:
        """Return the mark's beginning at a rendered prompt's end, with which the answer goes on."""
        return RECIPIENT if TO_ALL in self.silent and prompt.endswith(RECIPIENT) else ""

    def rest_of_mark(self, prompt: str) -> str:
        """Return what must stand between a rendered prompt and text of the model."""
        if self.is_harmony and prompt.endswith(harmony.NEXT):
            return harmony.FINAL
        if TO_USER in self.silent and prompt.endswith(MESSAGE_START):
            return TO_USER
        return TO_ALL.removeprefix(RECIPIENT) if self.begun(prompt) else ""

    def starts_thinking(self, prompt: str) -> bool:
        """Whether a rendered prompt has opened the model's thoughts."""
        if self.thinking is None:
            return False
        return prompt.rstrip().endswith(self.thinking.start + self.thinking.label.rstrip())


def build_model_format(tokenizer: Tokenizer, native: ToolFormat | None) -> ModelFormat:
    """Read a tokenizer's vocabulary and tags; takes a second for a large vocabulary.

    native: the format in which the chat template shows calls; None where it shows none.
    """
    tool_calls = native or plain_format()
    thinking, token_bytes = find_thinking_tags(tokenizer), TokenBytes(tokenizer)
    silent = find_silent_marks(tokenizer)
    tags = (tool_calls.start, tool_calls.end, *silent)
    tags += (thinking.start, thinking.end) if thinking else ()
    return ModelFormat(
        tool_calls=tool_calls,
        thinking=thinking,
        silent=silent,
        wrap=find_wrap(tokenizer),
        special_tokens=find_special_tokens(tokenizer, tags),
        token_bytes=token_bytes,
        new_detokenizer=detokenizer_factory(tokenizer, token_bytes),
        harmony_marks=harmony.find_marks(tokenizer) if harmony.is_harmony(tokenizer) else {},
    )


def find_special_tokens(tokenizer: Tokenizer, tags: Collection[str]) -> dict[str, int]:
    """Return the ids, by content, of the special tokens and of the tokens that are one of `tags`."""
    added = tokenizer.added_tokens_decoder.items()
    return {token.content: i for i, token in added if token.special or token.content in tags}
