"""Stand-ins for model, tokenizer and scheduler. A test sets their answers and reads the requests they got."""

import asyncio
import json
import re
import threading
import time
from collections import abc, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken

from pensieve.api.protocols import ToolParser
from pensieve.engine.served_model import ServedModel
from pensieve.engine.step import SamplingParams, TokenLogprobs
from pensieve.scheduler.exceptions import EngineFailed, QueueFull, UnclearSession
from pensieve.scheduler.queue_forecast import Outlook
from pensieve.scheduler.sequence import FinishReason, Request
from pensieve.scheduler.session_report import SessionReport
from pensieve.scheduler.stats import ServerState, Stats

from .empty_stats import EMPTY_STATS

SPECIAL_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<|endoftext|>",
)
HARMONY_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|constrain|>")
IM_END = 257

CHATML_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
{%- if messages[0].role == 'system' %}{{- '\\n' + messages[0].content }}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role != 'system' or not loop.first %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.reasoning_content %}{{- '<think>' + message.reasoning_content + '</think>' }}{%- endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
{{- '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
"""A template that knows tools and shows them before the system text, as the bundled model's does."""


def parse_json_call(text: str, _tools: Any = None) -> Any:
    """Parse a call as mlx-lm's parser of the same format does."""
    return json.loads(text.strip())


class ByteTokenizer:
    """One token a byte, and a few special ones; renders templates as transformers does."""

    def __init__(
        self,
        chat_template: str = CHATML_TEMPLATE,
        tool_parser: ToolParser | None = parse_json_call,
        thinks: bool = False,
        harmony: bool = False,
    ) -> None:
        self.chat_template = chat_template
        self.tool_parser = tool_parser
        self.has_tool_calling = tool_parser is not None
        self.tool_call_start = "<tool_call>" if tool_parser else None
        self.tool_call_end = "</tool_call>" if tool_parser else None
        self.think_start = "<think>" if thinks else None
        self.think_end = "</think>" if thinks else None
        self.eos_token_ids = {IM_END}
        self._special_tokens = SPECIAL_TOKENS + (HARMONY_TOKENS if harmony else ())
        self.vocab_size = 256 + len(self._special_tokens)
        self.added_tokens_decoder = {
            256 + i: AddedToken(token, special=True) for i, token in enumerate(self._special_tokens)
        }
        self._pattern = re.compile("(" + "|".join(map(re.escape, self._special_tokens)) + ")")

    def apply_chat_template(
        self, conversation: abc.Sequence[Mapping[str, Any]], /, *, tokenize: bool, **kwargs: Any
    ) -> Any:
        text = _compile(self.chat_template).render(messages=conversation, **kwargs)
        return self.encode(text) if tokenize else text

    def encode(self, text: str, /, *, add_special_tokens: bool = False) -> list[int]:
        tokens: list[int] = []
        for part in self._pattern.split(text):
            if part in self._special_tokens:
                tokens.append(256 + self._special_tokens.index(part))
            else:
                tokens += part.encode()
        return tokens

    def decode(self, token_ids: list[int], /) -> str:
        parts = [
            bytes([token]) if token < 256 else self._special_tokens[token - 256].encode()
            for token in token_ids
        ]
        return b"".join(parts).decode("utf-8", "replace")


@lru_cache
def _compile(chat_template: str) -> jinja2.Template:
    """Once for all tokenizers; that takes far longer than to render."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(chat_template)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


@dataclass(frozen=True, slots=True)
class FakeModel(ServedModel):
    """A served model of which a test sets only what it needs."""

    name: str = "test-org/Tiny-Model-4bit"
    vocab_size: int = 256 + len(SPECIAL_TOKENS) + len(HARMONY_TOKENS)
    max_context: int = 100_000
    eos_token_ids: frozenset[int] = frozenset({IM_END})
    default_sampling: SamplingParams = SamplingParams()  # noqa: RUF009  (frozen)
    kv_type: str = "8-bit"
    kv_bytes_per_token: int = 1024
    num_blocks: int = 6_250
    num_kv_tokens: int = 200_000
    step_tokens: int = 2048
    device: str = "test"
    attention: str = "scripted"


@dataclass(frozen=True)
class Script:
    """The answer to one request."""

    chunks: abc.Sequence[abc.Sequence[int]] = ()
    delay_s: float = 0.0  # before each chunk
    finish: FinishReason = "stop"
    fails: bool = False  # raises EngineFailed after the chunks
    hangs: bool = False  # waits for its cancellation after the chunks
    num_cached: int = 0
    num_at_arrival: int | None = None  # of these, if not all
    num_from_disk: int = 0
    outlook: Outlook | None = None
    gate: threading.Event | None = None  # all chunks but the first wait for it


def made_up_logprobs(token: int, num_likeliest: int) -> TokenLogprobs:
    return TokenLogprobs(
        -0.5 - token / 1000, [((token + i) % 256, -0.25 * (i + 1)) for i in range(num_likeliest)]
    )


class ScriptedTokenStream:
    """A `TokenStream` that plays a script."""

    def __init__(self, request: Request, script: Script) -> None:
        self.num_prompt_tokens = len(request.prompt)
        self.num_cached_tokens = script.num_cached
        self.num_cached_at_arrival = (
            script.num_cached if script.num_at_arrival is None else script.num_at_arrival
        )
        self.num_matched_at_arrival = self.num_cached_at_arrival
        self.num_disk_tokens = script.num_from_disk
        self.restore_s: float | None = None
        self.outlook = script.outlook
        self.finish_reason: FinishReason | None = None
        self.arrival_s = time.monotonic()
        self.admitted_s: float | None = None
        self.first_token_s: float | None = None
        self.num_cancels = 0
        self.calls: set[str] | None = None  # that the answer has made, once it has ended by itself
        self._script = script
        self._chunks = deque(script.chunks)
        self._room = request.max_tokens
        self._num_likeliest = request.sampling.logprobs
        self.logprobs: list[TokenLogprobs] = []
        self._cancelled = asyncio.Event()

    @property
    def was_aborted(self) -> bool:
        """Whether it was cancelled before its end."""
        return self.finish_reason == "abort"

    async def __anext__(self) -> list[int]:
        self.admitted_s = self.admitted_s or time.monotonic()
        if self._script.delay_s:
            await asyncio.sleep(self._script.delay_s)
        if self.first_token_s and self._script.gate:
            await asyncio.to_thread(self._script.gate.wait, 60)
        if self._chunks and self._room:
            tokens = list(self._chunks.popleft())[: self._room]
            self._room -= len(tokens)
            self.first_token_s = self.first_token_s or time.monotonic()
            if self._num_likeliest is not None:
                self.logprobs = [made_up_logprobs(token, self._num_likeliest) for token in tokens]
            return tokens
        return await self._end()

    async def _end(self) -> list[int]:
        if self._script.hangs and self._room:
            await self._cancelled.wait()
        if self._script.fails:
            self.finish_reason = "error"
            raise EngineFailed("the engine failed while it computed this request")
        self.finish_reason = self.finish_reason or (self._script.finish if self._room else "length")
        raise StopAsyncIteration

    def cancel(self) -> None:
        self.num_cancels += 1
        self.finish_reason = self.finish_reason or "abort"
        self._cancelled.set()

    def answered(self, calls: Iterable[str] | None) -> None:
        self.calls = None if calls is None else set(calls)


@dataclass
class ScriptedScheduler:
    """Takes requests like `SchedulerLoop` and answers each with the next script; the last one is repeated."""

    scripts: deque[Script] = field(default_factory=lambda: deque([Script()]))
    refusal: Exception | None = None  # what submit() raises
    state: ServerState = "ok"
    engine_error: str | None = None
    requests: list[Request] = field(default_factory=list)
    token_streams: list[ScriptedTokenStream] = field(default_factory=list)

    def play(self, *scripts: Script) -> None:
        """Set the answers to the next requests."""
        self.scripts = deque(scripts)

    def reset(self) -> None:
        """Forget everything."""
        self.play(Script())
        self.refusal = self.engine_error = None
        self.state = "ok"
        self.requests, self.token_streams = [], []

    def place(self) -> AbstractContextManager[None]:
        if self.refusal is not None:
            raise self.refusal
        return nullcontext()

    def is_full(self, num_more: int) -> bool:
        return isinstance(self.refusal, QueueFull)

    def refuse(self) -> QueueFull:
        assert isinstance(self.refusal, QueueFull)
        return self.refusal

    def submit(self, request: Request) -> ScriptedTokenStream:
        if self.refusal is not None:
            raise self.refusal
        script = self.scripts.popleft() if len(self.scripts) > 1 else self.scripts[0]
        token_stream = ScriptedTokenStream(request, script)
        self.requests.append(request)
        self.token_streams.append(token_stream)
        return token_stream

    def sessions(self, account: str | None = None) -> Iterator[SessionReport]:
        return iter(())

    def drop_session(self, name: str, account: str | None = None) -> NoReturn:
        raise UnclearSession(name, 0)

    def stats(self) -> Stats:
        running = sum(token_stream.finish_reason is None for token_stream in self.token_streams)
        state: ServerState = "error" if self.engine_error else self.state
        return replace(EMPTY_STATS, num_running=running, state=state, engine_error=self.engine_error)
