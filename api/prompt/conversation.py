"""Converts a request's messages to the messages that chat templates read, the same for all templates.

Each message is converted by fixed rules that depend on no later message: the prompt of a longer conversation
begins with the prompt of its earlier part, which is then found in the prefix cache.
"""

from ..answer_options import AnswerOptions
from ..formats.json_text import dump
from ..formats.thinking_signature import unseal
from ..formats.tool_calls.plain_format import describe_loaded
from ..protocols import TemplateMessage
from ..schema import (
    AssistantMessage,
    CountTokensRequest,
    DocumentBlock,
    MediaBlock,
    Message,
    SearchResultBlock,
    SystemMessage,
    TextBlock,
    Tool,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)
from .media import media_text

THOUGHTS = "reasoning_content"


def template_messages(request: CountTokensRequest) -> list[TemplateMessage]:
    """Convert a request's messages; the system prompt is not among them."""
    tools = {tool.name: tool for tool in request.tools or []}
    called: dict[str, str] = {}  # the tool's name by the call's id
    messages: list[TemplateMessage] = []
    for message in request.messages:
        messages += _convert(message, tools, called)
    return messages


def closing_instruction(options: AnswerOptions) -> str:
    """Write a request's tool choice and answer schema as an instruction to the model; empty without either.

    The instruction stands at the end of the prompt, so that prompts without it share the prefix. A model that
    reads the instruction answers better, also where `api/grammar/` constrains decoding.
    """
    parts = [_tool_choice_rule(options), _format_rule(options)]
    return "\n".join(part for part in parts if part)


def _convert(message: Message, tools: dict[str, Tool], called: dict[str, str]) -> list[TemplateMessage]:
    match message:
        case UserMessage():
            return _from_user(message, tools, called)
        case SystemMessage():
            text = _join([block.text for block in message.content if isinstance(block, TextBlock)])
            return [{"role": "system", "content": text}] if text else []
        case AssistantMessage():
            return [_from_assistant(message, called)]


def _from_user(message: UserMessage, tools: dict[str, Tool], called: dict[str, str]) -> list[TemplateMessage]:
    """Convert a user's message: the tools' results in their calls' order, or the user's text.

    Texts beside results, such as reminders, belong to the results: as a question of their own they would make
    templates refuse them, or drop the model's thoughts before them, which moves everything since.
    """
    results = [block for block in message.content if isinstance(block, ToolResultBlock)]
    if len(results) > 1:
        order = {call: place for place, call in enumerate(called)}
        results.sort(key=lambda block: order.get(block.tool_use_id, len(order)))
    texts: dict[bool, list[str]] = {False: [], True: []}  # before the first result, and from there on
    is_after = False
    for block in message.content:
        if isinstance(block, ToolResultBlock):
            is_after = True
        else:
            texts[is_after].append(_block_text(block, tools))
    converted: list[TemplateMessage] = [
        {
            "role": "tool",
            "tool_call_id": result.tool_use_id,
            "name": called.get(result.tool_use_id, ""),
            "content": _result_text(result, tools),
        }
        for result in results
    ]
    if not results:
        return [{"role": "user", "content": _join(texts[False])}]
    converted[0]["content"] = _apart(_join(texts[False]), converted[0]["content"])
    converted[-1]["content"] = _apart(converted[-1]["content"], _join(texts[True]))
    return converted


def _result_text(result: ToolResultBlock, tools: dict[str, Tool]) -> str:
    text = _join([_block_text(block, tools) for block in result.content])
    # Templates have no field for a failed call; most error texts name the error themselves.
    return f"Error: {text}" if result.is_error and "error" not in text[:200].lower() else text


def _block_text(
    block: TextBlock | ToolReferenceBlock | MediaBlock | DocumentBlock | SearchResultBlock,
    tools: dict[str, Tool],
) -> str:
    match block:
        case TextBlock():
            return block.text
        case ToolReferenceBlock():
            return _loaded_tool(block.tool_name, tools)
        case SearchResultBlock():
            return _join([part.text for part in block.content])
        case MediaBlock() | DocumentBlock():
            return media_text(block)


def _loaded_tool(name: str, tools: dict[str, Tool]) -> str:
    tool = tools.get(name)
    return f"[tool {name} is not available]" if tool is None else describe_loaded(tool)


def _from_assistant(message: AssistantMessage, called: dict[str, str]) -> TemplateMessage:
    """Convert an earlier answer, and add its calls to `called`, for the results that follow."""
    converted: TemplateMessage = {"role": "assistant"}
    converted["content"] = _join([block.text for block in message.content if block.type == "text"])
    thoughts = [
        block.thinking or unseal(block.signature) for block in message.content if block.type == "thinking"
    ]
    if any(thoughts):
        converted[THOUGHTS] = _join(thoughts)
    uses = [block for block in message.content if block.type == "tool_use"]
    if uses:
        called.update((use.id, use.name) for use in uses)
        converted["tool_calls"] = [_template_call(use) for use in uses]
    return converted


def _template_call(use: ToolUseBlock) -> TemplateMessage:
    function = {"name": use.name, "arguments": use.input}
    return {"type": "function", "id": use.id, "function": function}


def _join(texts: list[str]) -> str:
    return "\n".join(text for text in texts if text)


def _apart(first: str, second: str) -> str:
    return "\n\n".join(text for text in (first, second) if text)


def _tool_choice_rule(options: AnswerOptions) -> str:
    if options.forbids_calls:
        return "Answer in plain text, without calling a tool."
    if not options.must_call:
        return ""
    if options.called_tool is None:
        return "Your answer must be a call of one of the tools."
    return f"Your answer must be a call of the tool {options.called_tool}."


def _format_rule(options: AnswerOptions) -> str:
    if options.answer_schema is None:
        return ""
    schema = dump(options.answer_schema)
    return f"Answer with one JSON value that conforms to this JSON schema, and with nothing else: {schema}"
