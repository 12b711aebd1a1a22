"""The options that one request sets for its answer, read from the body once.

Prompt, constraint, parser and thinking budget all take these options; none of them reads `tool_choice`,
`thinking` or `output_config` itself.
"""

from dataclasses import dataclass, field
from typing import Any

from .errors import InvalidRequest
from .generation import GenerationRequest
from .schema import AssistantMessage, CountTokensRequest, Tool, ToolChoice


@dataclass(frozen=True, slots=True)
class ThinkingOptions:
    """Whether and how much the model is to think.

    wanted: the value of the template's switch for thinking, if it has one.
    forbidden: thoughts that the template opens are closed, also where it has no switch. Thoughts that are
    neither wanted nor forbidden stay open, because a model that always thinks is worse without thoughts.
    """

    wanted: bool = False
    effort: str | None = None
    num_tokens: int | None = None  # the budget, None for no bound
    forbidden: bool = False


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """The options of one answer.

    tools: all tools of the request. callable_tools: the tools that the answer may call.
    must_call: the answer must make a tool call. called_tool: the only tool that it may call, None for any.
    forbids_calls: the request has tools, and the answer may call none. The prompt shows the tools all the
    same, because the cached prefix begins with them.
    one_call: the answer ends after its first tool call.
    answer_schema: the JSON schema that the answer must conform to, None for free text.
    continues_answer: the last message is the model's, and the answer continues it.
    """

    stop_sequences: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    callable_tools: tuple[Tool, ...] = ()
    must_call: bool = False
    called_tool: str | None = None
    forbids_calls: bool = False
    one_call: bool = False
    answer_schema: dict[str, Any] | None = None
    continues_answer: bool = False
    thinking: ThinkingOptions = field(default_factory=ThinkingOptions)

    @property
    def may_call(self) -> bool:
        """Whether the answer may hold tool calls."""
        return bool(self.callable_tools)


AUTO = ToolChoice(type="auto")


def answer_options(body: CountTokensRequest) -> AnswerOptions:
    """Read a request's options. Raises InvalidRequest where `tool_choice` asks for a missing tool."""
    choice, tools = body.tool_choice or AUTO, tuple(body.tools or ())
    must_call = choice.type in ("any", "tool")
    if must_call and not tools:
        raise InvalidRequest(f"tool_choice: type {choice.type!r} needs tools")
    called_tool = choice.name if choice.type == "tool" else None
    if choice.type == "tool" and called_tool not in {tool.name for tool in tools}:
        raise InvalidRequest("tool_choice.name: no such tool in tools")
    may_call = choice.type != "none" and any(tool.is_in_head for tool in tools)
    callable_tools = [
        tool
        for tool in tools
        if may_call
        and called_tool in (None, tool.name)
        and (choice.names is None or tool.name in choice.names)
    ]
    output_format = body.output_config.format if body.output_config else None
    return AnswerOptions(
        stop_sequences=tuple(body.stop_sequences or ()) if isinstance(body, GenerationRequest) else (),
        tools=tools,
        callable_tools=tuple(callable_tools),
        must_call=must_call,
        called_tool=called_tool,
        forbids_calls=choice.type == "none" and bool(tools),
        one_call=choice.disable_parallel_tool_use,
        answer_schema=output_format.json_schema if output_format else None,
        continues_answer=isinstance(body.messages[-1], AssistantMessage),
        thinking=_thinking_options(body),
    )


def _thinking_options(body: CountTokensRequest) -> ThinkingOptions:
    effort = body.output_config.effort if body.output_config else None
    if body.thinking is None:
        return ThinkingOptions(effort=effort)
    forbidden = body.thinking.type == "disabled"
    return ThinkingOptions(not forbidden, effort, body.thinking.budget_tokens, forbidden)
