"""Translates a request of OpenAI's chat API to a MessagesRequest, which the pipeline reads."""

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
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)
from .chat_turns import (
    AssistantTurn,
    AudioPart,
    FilePart,
    ImagePart,
    SystemTurn,
    TextPart,
    ThinkingPart,
    ToolTurn,
    Turn,
    UserPart,
    UserTurn,
)
from .requests import ChatRequest


def messages_request(chat: ChatRequest) -> MessagesRequest:
    """Translate a request.

    Raises InvalidRequest if all messages are system texts.
    """
    turns = list(chat.messages)
    head: list[TextBlock] = []
    while turns and isinstance(turns[0], SystemTurn):
        head += _texts(turns[0])
        del turns[0]
    if not turns:
        raise InvalidRequest("messages: a message of the user is needed")
    limits = (chat.max_completion_tokens, chat.max_tokens)
    return MessagesRequest(
        **chat.generation_fields(next((limit for limit in limits if limit is not None), None)),
        system=head,
        messages=[_message(turn) for turn in turns],
        tools=chat.tools or None,
        tool_choice=_tool_choice(chat),
        thinking=chat.thinking_config(),
        chat_template_kwargs=chat.chat_template_kwargs,
        output_config=OutputConfig(format=chat.output_format, effort=chat.effort),
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
    if turn.thoughts:
        blocks.append(ThinkingBlock(type="thinking", thinking=turn.thoughts))
    calls = [
        ToolUseBlock(type="tool_use", id=call.id, name=call.function.name, input=call.function.arguments)
        for call in turn.tool_calls or ()
    ]
    return [*blocks, *_texts(turn), *calls]


def _texts(turn: SystemTurn | AssistantTurn) -> Iterator[TextBlock]:
    """Yield a turn's texts; what else a client puts there, the model cannot have read or written."""
    for part in turn.content:
        if isinstance(part, TextPart):
            yield TextBlock(type="text", text=part.text)


def _block(part: UserPart) -> TextBlock | MediaBlock | DocumentBlock:
    match part:
        case TextPart():
            return TextBlock(type="text", text=part.text)
        case ThinkingPart():
            return TextBlock(type="text", text=part.thinking)
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


def _tool_choice(chat: ChatRequest) -> ToolChoice | None:
    if chat.parallel_tool_calls is not False or (chat.tool_choice and chat.tool_choice.type == "none"):
        return chat.tool_choice
    choice = chat.tool_choice or ToolChoice(type="auto")
    return choice.model_copy(update={"disable_parallel_tool_use": True})
