"""Makes the spec of an answer's constraint from a request's options: its tools, and its answer schema."""

from collections import abc
from collections.abc import Collection
from dataclasses import replace

from ..answer_options import AnswerOptions
from ..errors import InvalidRequest
from ..formats.harmony import FINAL, FINAL_VALUE, PREAMBLE, THOUGHT
from ..formats.model_format import ModelFormat
from ..formats.tag_follower import AnswerTags
from ..formats.tool_calls.tool_format import ToolFormat
from ..protocols import Tokenizer
from ..schema import Tool
from .answer_constraint import ConstraintSpec
from .deep_stack import on_deep_stack
from .grammar_cache import GrammarCache, GrammarKey
from .message_constraint import MessageSpec
from .vocabulary import Vocabulary, make_vocabulary

# Models write some text before a call, also before one that is required. A tool that is named is called at
# once: it stands for the form of an answer, and clients take the first block for it.
MAX_TEXT_BEFORE = 400  # bytes

HEADS: tuple[str, ...] = (THOUGHT, PREAMBLE, FINAL, FINAL_VALUE)  # of messages that are no calls


def open_constraint_factory(
    model_format: ModelFormat, eos_ids: Collection[int]
) -> "ConstraintFactory | None":
    """Make a model's constraint factory.

    None when no grammar can be compiled for the model's vocabulary.
    """
    bytes_of = model_format.token_bytes.table
    if bytes_of is None:
        return None
    vocabulary = make_vocabulary(bytes_of, model_format.special_tokens, eos_ids)
    return ConstraintFactory(vocabulary, model_format) if vocabulary else None


class ConstraintFactory:
    """Makes the constraint specs of one model's requests."""

    def __init__(self, vocabulary: Vocabulary, model_format: ModelFormat) -> None:
        tool_format, thinking = model_format.tool_calls, model_format.thinking
        self._vocabulary = vocabulary
        self._marks = (*model_format.silent, *(model_format.wrap or ()))
        self._tool_format: ToolFormat | None = tool_format if tool_format.is_constrained else None
        pair = (thinking.start.encode(), thinking.end.encode()) if thinking else None
        self._tags = AnswerTags(thinking=pair)
        self._heads = HEADS if model_format.is_harmony else ()
        self._grammars = GrammarCache(vocabulary)

    def allows(self, call: str, tool: Tool, tokenizer: Tokenizer) -> bool:
        """Whether the grammar of calls allows the text of a call of `tool`, with its tags.

        Behind the call other text may stand, such as a mark of the turn's end.
        """
        if self._tool_format is None:
            return True
        key = GrammarKey((tool,), self._tool_format, None, heads=self._heads)
        tokens = tokenizer.encode(call, add_special_tokens=False)
        grammar = on_deep_stack(lambda: self._grammars.compile(key))
        matcher = grammar.begin()
        num_allowed = matcher.validate_tokens(tokens)
        return bool(
            matcher.try_consume_tokens(tokens[:num_allowed]) == num_allowed and matcher.is_accepting()
        )

    def leave_calls_free(self) -> None:
        """Constrain no calls from now on, only values."""
        self._tool_format = None

    @property
    def keeps_calls(self) -> bool:
        """Whether calls are constrained to their tools' schemas: the model's format has a grammar."""
        return self._tool_format is not None

    async def spec(self, options: AnswerOptions) -> ConstraintSpec | MessageSpec | None:
        """Return the constraint spec of a request's answer; None where no grammar constrains it.

        Raises InvalidRequest for an answer schema that cannot be enforced, and for too large schemas.
        """
        tool_format, is_value = self._tool_format, options.is_value
        tools = options.callable_tools if tool_format is not None else ()
        if not is_value and not tools:
            return None
        if is_value and options.continues_answer and not options.must_call:
            raise InvalidRequest("output_config.format: the last message must be the user's")
        if self._heads and not options.is_raw:
            return await self._message_spec(options, tools)
        call = (
            await self._grammars.get(GrammarKey(tools, tool_format, None, marks=self._marks), options.space)
            if tools
            else None
        )
        answer = call if options.must_call else None
        if answer is None and is_value:
            key = GrammarKey(tools, tool_format, options.answer_schema, options.answer_rule, self._marks)
            answer = await self._grammars.get(key, options.space)
        return ConstraintSpec(
            vocabulary=self._vocabulary,
            call=call,
            answer=answer,
            tags=self._tags_of(tools),
            may_think=not options.thinking.forbidden,
            text_before=MAX_TEXT_BEFORE if options.must_call and options.called_tool is None else 0,
        )

    async def _message_spec(self, options: AnswerOptions, tools: tuple[Tool, ...]) -> MessageSpec:
        """Return the spec of an answer in messages; its thoughts cannot be switched off."""
        value, heads = None, self._heads
        if options.must_call and tools:
            heads = (THOUGHT,)
        elif options.is_value:
            heads = (THOUGHT, FINAL, FINAL_VALUE)
            key = GrammarKey((), None, options.answer_schema, options.answer_rule)
            value = await self._grammars.get(key, options.space)
        key = GrammarKey(tools, self._tool_format, None, heads=heads)
        head = await self._grammars.get(key, options.space)
        return MessageSpec(
            self._vocabulary,
            head,
            value,
            must_end_so=heads is not self._heads,
            in_words=options.continues_answer,
        )

    def _tags_of(self, tools: abc.Sequence[Tool]) -> AnswerTags[bytes]:
        """Return the tags of an answer that may call some tools."""
        if not tools or self._tool_format is None:
            return self._tags
        starts = self._tool_format.starts(tool.name for tool in tools)
        calls = [start.encode() for start in starts]
        return replace(self._tags, calls=calls, call_end=self._tool_format.end.encode())
