"""Judges answers as the server treats them: read token by token, and constrained where they make calls."""

import asyncio
import json
import re
import time
from dataclasses import dataclass, replace
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any, cast

from pensieve.api.config import KeepAlive
from pensieve.api.errors import InvalidRequest
from pensieve.api.formats.output_events import (
    ArgumentsDelta,
    TextDelta,
    ThinkingDelta,
    ToolCallStart,
    call_input,
)
from pensieve.api.grammar.constraint_factory import open_constraint_factory
from pensieve.api.metrics import Metrics
from pensieve.api.output.parser import OutputParser
from pensieve.api.preparation import Preparation, PreparedRequest
from pensieve.api.prompt.prompt import PromptBuilder
from pensieve.api.prompt.template import ChatTemplate
from pensieve.api.reports.request_log import RequestLog
from pensieve.api.schema import MessagesRequest
from pensieve.api.services import Services
from pensieve.api.twins import Twins
from pensieve.scheduler.constraint import Constraint
from pensieve.scheduler.origin import Account

from ..api.builders import make_format
from ..fakes import FakeModel, ScriptedScheduler
from .reference_cases import Call, Case
from .templates_on_disk import EOS, read_template, small_tokenizer

ENDS = re.compile(r"(?:</s>|<\|(?:role_end|eot|im_end|eot_id|eom_id)\|>)+$")  # of some models' answers
NO_CALL = "no call"
UNREAD = "__unparsedToolInput"


async def stay_connected() -> Any:
    """Never return: the client stays."""
    await asyncio.Event().wait()


async def no_body() -> bytes:
    """Return the body of a request that is taken from elsewhere."""
    return b""


HTTP: Any = SimpleNamespace(
    client=None,
    body=no_body,
    headers={},
    scope={"path": "/v1/messages", "state": {"request_id": "case", "key": b"", "account": Account()}},
    receive=stay_connected,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a case.

    fault: what the reader made of it instead; empty where the reader is right.
    allowed: whether the constraint allows the call; None where the answer makes none, or is not constrained.
    refused_at: the text up to the token that the constraint refuses.
    """

    case: Case
    fault: str
    allowed: bool | None
    refused_at: str = ""


class Judge:
    """The server's parts for one chat template."""

    def __init__(self, template: str) -> None:
        self._tokenizer = small_tokenizer(read_template(template))
        ids = self._tokenizer.get_vocab()
        model = FakeModel(vocab_size=len(ids), eos_token_ids=frozenset({ids[EOS]}))
        chat, model_format = ChatTemplate(self._tokenizer), make_format(self._tokenizer)
        self.is_native = chat.features.native_tools
        scheduler = ScriptedScheduler()
        metrics = Metrics(model, scheduler.stats)
        self._services = Services(
            model=model,
            model_format=model_format,
            scheduler=scheduler,
            prompts=PromptBuilder(model, self._tokenizer, chat, model_format),
            constraint_factory=open_constraint_factory(model_format, model.eos_token_ids),
            abilities=chat.abilities,
            metrics=metrics,
            search=None,
            thinking="auto",
            keep_alive=KeepAlive(),
            requests=RequestLog(),
            twins=Twins(metrics),
        )

    def judge(self, case: Case) -> Verdict:
        """Read a case's answer and compare it with what the answer means."""
        body = MessagesRequest.model_validate(request_body(case))
        try:
            prepared = asyncio.run(Preparation(self._services).conversation(HTTP, body, time.monotonic()))
        except InvalidRequest as error:
            return Verdict(case, f"refused: {error}", None)
        answer = ENDS.sub("", case.answer)
        tokens = self._tokenizer.encode(answer, add_special_tokens=False)
        events = read(prepared, tokens, case.is_partial)
        if case.check is not None:
            fault = case.check(lambda text: self._read_again(prepared, text))
            case = replace(case, calls=tuple(as_calls(events)))
        else:
            fault = compare(case, events)
        constraint = prepared.request.constraint
        if constraint is None or not case.calls or case.is_partial or not knows_all(case, events):
            return Verdict(case, fault, None)
        refused_at = self._follow(constraint, tokens)
        is_read = not fault.startswith(NO_CALL)  # else no grammar of calls has begun
        return Verdict(case, fault, refused_at is None and is_read, refused_at or "")

    def _read_again(self, prepared: PreparedRequest, answer: str) -> tuple[str, list[Call], str]:
        """Read an answer for a test that is code."""
        tokens = self._tokenizer.encode(ENDS.sub("", answer), add_special_tokens=False)
        events = read(prepared, tokens, cut_off=False)
        text, thoughts = (
            "".join(event.text for event in events if isinstance(event, kind))
            for kind in (TextDelta, ThinkingDelta)
        )
        return text, as_calls(events), thoughts

    def _follow(self, constraint: Constraint, tokens: list[int]) -> str | None:
        """Return the answer up to the token that the constraint refuses; None where it allows them all."""
        for i, token in enumerate(tokens):
            mask = constraint.mask()
            if mask is not None and not mask[token // 8] >> token % 8 & 1:
                return str(self._tokenizer.decode(tokens[: i + 1]))
            constraint.accept(token)
        return None


def request_body(case: Case) -> dict[str, Any]:
    """Return the request whose answer a case is."""
    tools = [
        {
            "name": tool["function"]["name"],
            "description": tool["function"].get("description", ""),
            "input_schema": tool["function"].get("parameters") or {"type": "object"},
        }
        for tool in case.tools
    ]
    body: dict[str, Any] = {
        "model": "m",
        "max_tokens": 1000,
        "messages": [wire(message) for message in case.messages] or [{"role": "user", "content": "Hey!"}],
        "thinking": {"type": "enabled", "budget_tokens": 5000} if case.thinks else {"type": "disabled"},
    }
    if tools:
        body |= {"tools": tools, "tool_choice": {"type": "any" if case.must_call else "auto"}}
    if case.schema:
        body["output_config"] = {"format": {"type": "json_schema", "schema": json.loads(case.schema)}}
    return body


def wire(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message of the chat API as one of Anthropic's."""
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
        return {"role": "user", "content": [result | {"content": message["content"]}]}
    calls = [
        {
            "type": "tool_use",
            "id": call_id or f"call_{i}",
            "name": name,
            "input": json.loads(arguments or "{}"),
        }
        for i, (name, arguments, call_id) in enumerate(message["tool_calls"])
    ]
    words = [{"type": "text", "text": message["content"]}] if message["content"] else []
    return {"role": message["role"], "content": [*words, *calls]}


def read(prepared: PreparedRequest, tokens: list[int], cut_off: bool) -> list[Any]:
    """Feed an answer to the server's reader, token by token."""
    parser = OutputParser(prepared.new_detokenizer(), prepared.answer_format)
    events: list[Any] = []
    for token in tokens:
        events += parser.feed([token])
    return events + parser.finish(cut_off)


def calls_in(events: list[Any]) -> list[tuple[str, list[str]]]:
    """List the names of calls, and the fragments of their arguments."""
    calls: list[tuple[str, list[str]]] = []
    for event in events:
        if isinstance(event, ToolCallStart):
            calls.append((event.name, []))
        elif isinstance(event, ArgumentsDelta):
            calls[-1][1].append(event.json)
    return calls


def as_calls(events: list[Any]) -> list[Call]:
    """List the calls in an answer's events."""
    return [(name, "".join(parts)) for name, parts in calls_in(events)]


def knows_all(case: Case, events: list[Any]) -> bool:
    """Whether a case says all of its calls, so that their schemas can be made of it."""
    found = [(name, call_input(parts)) for name, parts in calls_in(events)]
    if case.check is not None:
        known = {tool["function"]["name"] for tool in case.tools}
        return not case.is_open and known.issuperset(name for name, _ in found)
    return not case.is_open or found == [(name, json.loads(arguments)) for name, arguments in case.calls]


def compare(case: Case, events: list[Any]) -> str:
    """Say how an answer was read otherwise than it should be; nothing where it was read right.

    Space around texts counts for nothing, and neither does the order of keys.
    """
    text = "".join(event.text for event in events if isinstance(event, TextDelta)).strip()
    thoughts = "".join(event.text for event in events if isinstance(event, ThinkingDelta)).strip()
    calls = calls_in(events)
    prefilled = case.messages[-1] if case.messages and case.messages[-1]["role"] == "assistant" else {}
    wanted_text = text if case.text is None else case.text.removeprefix(prefilled.get("content", "")).strip()
    wanted_thoughts = "" if prefilled else case.thoughts.strip()
    wanted_names = [
        name or called for (name, _), (called, _) in zip_longest(case.calls, calls, fillvalue=("", []))
    ]
    if len(calls) != len(case.calls) or [name for name, _ in calls] != wanted_names:
        names = str([name for name, _ in calls]) if calls else NO_CALL
        return f"{names}, text {text[:60]!r}, thoughts {thoughts[:60]!r}"
    for (_, parts), (_, wanted) in zip(calls, case.calls, strict=True):
        if not same_arguments(parts, wanted, case):
            return f"arguments {''.join(parts)[:100]} for {wanted[:100]}"
    is_right = text.startswith(wanted_text) if case.is_open and case.calls else text == wanted_text
    if not is_right:
        return f"text {text[:100]!r} for {wanted_text[:100]!r}"
    return "" if thoughts == wanted_thoughts else f"thoughts {thoughts[:100]!r} for {wanted_thoughts[:100]!r}"


def holds(value: Any, wanted: Any) -> bool:
    """Whether a value has what is wanted of its parts; a list's items may be wanted by their places."""
    if isinstance(wanted, dict) and isinstance(value, list):
        value = {str(i): part for i, part in enumerate(value)}
    if isinstance(wanted, dict) and isinstance(value, dict):
        return all(key in value and holds(value[key], part) for key, part in wanted.items())
    return bool(value == wanted)


def same_arguments(parts: list[str], wanted: str, case: Case) -> bool:
    """Whether arguments mean the same; of an answer that was cut off, whether they begin the same."""
    if case.is_open:
        return holds(call_input(parts), json.loads(wanted))
    if not case.is_partial:
        return bool(call_input(parts) == cast(object, json.loads(wanted or "{}")))
    read_so_far, wanted = ("".join(text.split()) for text in ("".join(parts), wanted))
    return UNREAD in read_so_far or read_so_far.startswith(wanted) or wanted.startswith(read_so_far)
