"""The options that one request sets for its answer, read from the body once.

Prompt, constraint, parser and thinking budget all take these options; none of them reads `tool_choice`,
`thinking` or `output_config` itself.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from .config import ThinkingDefault
from .errors import InvalidRequest
from .generation import GenerationRequest
from .guided_fields import OutputFormat
from .schema import AssistantMessage, CountTokensRequest, Tool, ToolChoice


@dataclass(frozen=True, slots=True)
class ThinkingOptions:
    """Whether and how much the model is to think.

    wanted: the value of the template's switch for thinking, if it has one; None leaves the template its own.
    forbidden: thoughts that the template opens are closed, also where it has no switch. Thoughts that are
    neither wanted nor forbidden stay open, because a model that always thinks is worse without thoughts.
    keeps_thoughts: the prompt shows the thoughts of all earlier answers, where the template can.
    """

    wanted: bool | None = False
    effort: str | None = None
    num_tokens: int | None = None  # the budget, None for no bound
    forbidden: bool = False
    keeps_thoughts: bool = False
    variables: tuple[tuple[str, Any], ...] = ()  # more variables of the template, by name


@dataclass(frozen=True, slots=True)
class TextRule:
    """What an answer's whole text must be: of a regular expression, one of some words, or of a grammar.

    texts: the expression or the grammar alone, or the words.
    """

    kind: Literal["regex", "choice", "grammar"]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """The options of one answer.

    tools: all tools of the request. callable_tools: the tools that the answer may call.
    must_call: the answer must make a tool call. called_tool: the only tool that it may call, None for any.
    forbids_calls: the request has tools, and the answer may call none. The prompt shows the tools all the
    same, because the cached prefix begins with them.
    one_call: the answer ends after its first tool call.
    answer_schema: the JSON schema that the answer must conform to, None for free text.
    answer_rule: what the answer's text must be, where that is no JSON; None for free text.
    continues_answer: the last message is the model's, and the answer continues it.
    is_raw: the prompt goes to the model as it is, and so does its answer to the client.
    space: whose compiled grammars and tokenised texts may be used; see Account.
    """

    stop_sequences: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    callable_tools: tuple[Tool, ...] = ()
    must_call: bool = False
    called_tool: str | None = None
    forbids_calls: bool = False
    one_call: bool = False
    answer_schema: dict[str, Any] | None = None
    answer_rule: TextRule | None = None
    continues_answer: bool = False
    is_raw: bool = False
    thinking: ThinkingOptions = field(default_factory=ThinkingOptions)
    space: bytes = b""

    @property
    def is_value(self) -> bool:
        """Whether the answer is one value, of a schema or a rule."""
        return self.answer_schema is not None or self.answer_rule is not None

    @property
    def untagged_names(self) -> frozenset[str]:
        """The names of the tools whose calls count without tags: none in a value, or behind a begun text."""
        if self.continues_answer or (self.is_value and not self.must_call):
            return frozenset()
        return frozenset(tool.name for tool in self.callable_tools if tool.is_in_head)

    @property
    def may_call(self) -> bool:
        """Whether the answer may hold tool calls."""
        return bool(self.callable_tools)


AUTO = ToolChoice(type="auto")

# Names of templates' variables: thinking on or off, and its effort.
SWITCH_NAMES = ("enable_thinking", "thinking")
EFFORT = "reasoning_effort"

# Arguments of the renderer and variables of every template, which are made of the request's other fields.
RENDERERS_OWN = frozenset(
    {
        *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors"),
        *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)


def answer_options(body: CountTokensRequest, default: ThinkingDefault = "auto") -> AnswerOptions:
    """Read a request's options. default: whether the model thinks where the request does not say.

    Raises InvalidRequest where `tool_choice` asks for a missing tool, and for a template's variable that only
    the server may set.
    """
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
    output_format = (body.output_config and body.output_config.format) or body.output_format
    is_schema = output_format is not None and output_format.type == "json_schema"
    return AnswerOptions(
        stop_sequences=tuple(body.stop_sequences or ()) if isinstance(body, GenerationRequest) else (),
        tools=tools,
        callable_tools=tuple(callable_tools),
        must_call=must_call,
        called_tool=called_tool,
        forbids_calls=choice.type == "none" and bool(tools),
        one_call=choice.disable_parallel_tool_use,
        answer_schema=output_format.json_schema if output_format and is_schema else None,
        answer_rule=text_rule(output_format),
        continues_answer=isinstance(body.messages[-1], AssistantMessage),
        thinking=_thinking_options(body, default),
    )


def raw_options(wanted: OutputFormat | None) -> AnswerOptions:
    """Return the options of an answer to a prompt that goes to the model as it is. Raises InvalidRequest."""
    is_schema = wanted is not None and wanted.type == "json_schema"
    return AnswerOptions(
        answer_schema=wanted.json_schema if wanted and is_schema else None,
        answer_rule=text_rule(wanted),
        is_raw=True,
        thinking=ThinkingOptions(forbidden=True),
    )


def text_rule(wanted: OutputFormat | None) -> TextRule | None:
    """Return the rule of an answer's text that a request names. Raises InvalidRequest for an empty one."""
    if wanted is None or wanted.type == "json_schema":
        return None
    texts = tuple(wanted.words) if wanted.type == "choice" else (wanted.rule,)
    if not any(texts):
        raise InvalidRequest(f"the {wanted.type} of the answer's format is empty")
    return TextRule(wanted.type, texts)


def _thinking_options(body: CountTokensRequest, default: ThinkingDefault) -> ThinkingOptions:
    variables = body.chat_template_kwargs or {}
    if own := RENDERERS_OWN & variables.keys():
        raise InvalidRequest(f"chat_template_kwargs.{min(own)}: only the server sets this")
    effort = body.output_config.effort if body.output_config else None
    named = variables.get(EFFORT)
    wanted = _wanted(body, variables)
    forbidden = wanted is False or (wanted is None and default == "off")
    if wanted is None:
        # Without a word about thinking, Anthropic's API means none, OpenAI's (type "auto") the model's own.
        wanted = default == "on" if default != "auto" or body.thinking is None else None
    return ThinkingOptions(
        wanted=wanted,
        effort=named if isinstance(named, str) else effort,
        num_tokens=body.thinking.budget_tokens if body.thinking else None,
        forbidden=forbidden,
        keeps_thoughts=body.context is not None and body.context.kept_thoughts is not None,
        variables=tuple(variables.items()),
    )


def _wanted(body: CountTokensRequest, variables: dict[str, Any]) -> bool | None:
    """Return whether the request wants thinking; None where it does not say."""
    switches = [variables.get(name) for name in SWITCH_NAMES] + [body.enable_thinking]
    for switch in switches:
        if isinstance(switch, bool):
            return switch
    if body.thinking is None or body.thinking.type == "auto":
        return None
    return body.thinking.type != "disabled"
