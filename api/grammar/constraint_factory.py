"""What a request asks of its answer: tools that may or must be called, and a schema."""

from collections.abc import Collection

from ..errors import InvalidRequest
from ..formats.model_format import ModelFormat
from ..formats.thinking_tags import ThinkingTags
from ..formats.tool_calls.tool_format import ToolFormat, head_tools
from ..schema import AssistantMessage, MessagesRequest, Tool
from .answer_constraint import ConstraintSpec
from .answer_grammar import call_format
from .grammar_cache import GrammarCache, GrammarKey
from .vocabulary import Vocabulary, make_vocabulary


def open_constraint_factory(
    model_format: ModelFormat, eos_ids: Collection[int]
) -> "ConstraintFactory | None":
    """Make a model's constraint factory; None when no grammar can be compiled for its tokens or messages."""
    bytes_of = model_format.token_bytes.table
    if model_format.is_harmony or bytes_of is None:
        return None
    vocabulary = make_vocabulary(bytes_of, model_format.special_tokens, eos_ids)
    return (
        ConstraintFactory(vocabulary, model_format.tool_calls, model_format.thinking) if vocabulary else None
    )


class ConstraintFactory:
    """Finds what the answers to requests to one model must conform to."""

    def __init__(
        self, vocabulary: Vocabulary, tool_format: ToolFormat, thinking: ThinkingTags | None
    ) -> None:
        self._vocabulary = vocabulary
        self._tool_format = tool_format if call_format(tool_format) else None
        self._think = (thinking.start.encode(), thinking.end.encode()) if thinking else None
        self._grammars = GrammarCache(vocabulary)

    @property
    def keeps_calls(self) -> bool:
        """Whether calls can be kept to their tools' schemas: there is a grammar of the model's format."""
        return self._tool_format is not None

    async def rules(self, body: MessagesRequest) -> ConstraintSpec | None:
        """Return what the answer must conform to, None when that is nothing.

        Raises InvalidRequest for a schema that cannot be enforced, or is too large to be.
        """
        tool_format = self._tool_format
        tools = _callable_tools(body) if tool_format is not None else ()
        schema = body.answer_schema
        if schema is None and not tools:
            return None
        call = await self._grammars.get(GrammarKey(tools, tool_format, None)) if tools else None
        answer = call if tools and body.must_call else None
        if answer is None and schema is not None:
            if isinstance(body.messages[-1], AssistantMessage):
                raise InvalidRequest("output_config.format: the last message must be the user's")
            answer = await self._grammars.get(GrammarKey(tools, tool_format, schema))
        marks = (tool_format.start.encode(), tool_format.end.encode()) if tool_format else (b"", b"")
        return ConstraintSpec(
            vocabulary=self._vocabulary,
            call=call,
            call_marks=marks,
            answer=answer,
            think=self._think,
            may_think=body.thinking is None or body.thinking.type != "disabled",
        )


def _callable_tools(body: MessagesRequest) -> tuple[Tool, ...]:
    """List the tools that may be called: none, all, or the one that must be."""
    choice = body.tool_choice
    if (choice is not None and choice.type == "none") or not head_tools(body.tools or ()):
        return ()
    only = choice.name if choice is not None and choice.type == "tool" else None
    return tuple(tool for tool in body.tools or () if only in (None, tool.name))
