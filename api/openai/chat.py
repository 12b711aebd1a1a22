"""Translates a request of OpenAI's chat API to a MessagesRequest, which the pipeline reads."""

import json
import re
from collections.abc import Iterator

from ..errors import InvalidRequest
from ..schema import (
    AssistantBlock,
    AssistantMessage,
    DocumentBlock,
    DocumentSource,
    MediaBlock,
    MediaSource,
    Message,
    MessagesRequest,
    OutputConfig,
    OutputFormat,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ThinkingConfig,
    Tool,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)
from .requests import (
    AssistantTurn,
    AudioPart,
    ChatRequest,
    FilePart,
    FunctionCall,
    FunctionSpec,
    ImagePart,
    NamedChoice,
    ResponseFormat,
    SystemTurn,
    TextPart,
    ToolTurn,
    Turn,
    UserPart,
    UserTurn,
)

ALL_THAT_FITS = 2**31  # the pipeline cuts max_tokens to the room that the context leaves


def messages_request(chat: ChatRequest) -> MessagesRequest:
    """Translate a request.

    Raises InvalidRequest if all messages are system texts, or a call's arguments are no JSON object.
    """
    turns = list(chat.messages)
    head: list[TextBlock] = []
    while turns and isinstance(turns[0], SystemTurn):
        head += _texts(turns[0])
        del turns[0]
    if not turns:
        raise InvalidRequest("messages: a message of the user is needed")
    return MessagesRequest(
        **chat.generation_fields(chat.max_completion_tokens or chat.max_tokens or ALL_THAT_FITS),
        system=head,
        messages=[_message(turn) for turn in turns],
        tools=[_tool(tool.function) for tool in chat.tools] if chat.tools else None,
        tool_choice=_tool_choice(chat),
        thinking=_thinking(chat.reasoning_effort),
        output_config=_output_config(chat.response_format, chat.reasoning_effort),
    )


def _message(turn: Turn) -> Message:
    match turn:
        case SystemTurn():
            return SystemMessage(role="system", content=list(_texts(turn)))
        case UserTurn():
            return UserMessage(role="user", content=[_block(part) for part in turn.content])
        case ToolTurn():
            result = ToolResultBlock(
                type="tool_result",
                tool_use_id=turn.tool_call_id,
                content=[_block(part) for part in turn.content],
            )
            return UserMessage(role="user", content=[result])
        case AssistantTurn():
            return AssistantMessage(role="assistant", content=_assistant_blocks(turn))


def _assistant_blocks(turn: AssistantTurn) -> list[AssistantBlock]:
    blocks: list[AssistantBlock] = []
    if turn.reasoning_content:
        blocks.append(ThinkingBlock(type="thinking", thinking=turn.reasoning_content))
    return [*blocks, *_texts(turn), *(_call(call) for call in turn.tool_calls or ())]


def _call(call: FunctionCall) -> ToolUseBlock:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest("messages: the arguments of a tool call are not the JSON of an object")
    return ToolUseBlock(type="tool_use", id=call.id, name=call.function.name, input=arguments)


def _texts(turn: SystemTurn | AssistantTurn) -> Iterator[TextBlock]:
    for part in turn.content:
        yield TextBlock(type="text", text=part.refusal if part.type == "refusal" else part.text)


def _block(part: UserPart) -> TextBlock | MediaBlock | DocumentBlock:
    match part:
        case TextPart():
            return TextBlock(type="text", text=part.text)
        case ImagePart():
            return MediaBlock(type="image", source=MediaSource(media_type=_media_type(part.image_url.url)))
        case AudioPart():
            return MediaBlock(type="audio")
        case FilePart():
            return DocumentBlock(
                type="document", source=DocumentSource(type="file"), title=part.file.filename
            )


def _media_type(url: str) -> str | None:
    """Return the media type of a picture that is sent as a data: URL."""
    found = re.match(r"data:([\w.+-]+/[\w.+-]+)[;,]", url[:100])
    return found[1] if found else None


def _tool(function: FunctionSpec) -> Tool:
    schema = function.parameters or {"type": "object", "properties": {}}
    return Tool(name=function.name, description=function.description, input_schema=schema)


def _tool_choice(chat: ChatRequest) -> ToolChoice | None:
    one_call = chat.parallel_tool_calls is False
    match chat.tool_choice:
        case NamedChoice(function=function):
            return ToolChoice(type="tool", name=function.name, disable_parallel_tool_use=one_call)
        case "required":
            return ToolChoice(type="any", disable_parallel_tool_use=one_call)
        case "none":
            return ToolChoice(type="none")
        case _:
            return ToolChoice(type="auto", disable_parallel_tool_use=True) if one_call else None


def _thinking(effort: str | None) -> ThinkingConfig | None:
    if effort is None:
        return None
    return ThinkingConfig(type="disabled" if effort == "none" else "enabled")


def _output_config(wanted: ResponseFormat | None, effort: str | None) -> OutputConfig:
    if wanted is None or wanted.type == "text":
        return OutputConfig(effort=effort)
    schema = {"type": "object"}
    if wanted.type == "json_schema" and wanted.json_schema is not None:
        schema = wanted.json_schema.json_schema
    return OutputConfig(format=OutputFormat(type="json_schema", schema=schema), effort=effort)
