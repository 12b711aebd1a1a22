"""vLLM's tests of tool parsers that are code: run as they are, with the server's reader for the parser."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from .reference_cases import Case, Read, case_of

PARSER = "parser"  # part of the names of fixtures that make one
HELPERS = {"run_tool_extraction": "run", "run_tool_extraction_streaming": "run_stream"}  # of vLLM's tests


class Loose(str):
    """A text that equals another but for space around it, or as JSON."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return (other is None or other == []) and not self
        return "".join(self.split()) == "".join(other.split()) or _json(self) == _json(other) is not None

    def __ne__(self, other: object) -> bool:
        return not self == other


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


class AnyValue:
    """Equals everything: stands for what is another program's own business, as ids are."""

    __hash__ = object.__hash__

    def __eq__(self, _: object) -> bool:
        return True


@dataclass(frozen=True, slots=True, eq=False)
class _Function:
    """A call, which equals another object with the same name and arguments."""

    name: str
    arguments: Loose

    def __eq__(self, other: Any) -> bool:
        return bool(self.name == other.name and self.arguments == other.arguments)

    __hash__ = object.__hash__


class _Asked(Exception):
    """A test has given its answer to the parser."""


class _Parser:
    """Stands for vLLM's parser. read: reads an answer; None to note the first answer only."""

    def __init__(self, read: Read | None) -> None:
        self._read = read
        self.asked: tuple[str, Any] = ("", None)

    def extract_tool_calls(self, model_output: str, request: Any = None, **_: Any) -> Any:
        """Read a whole answer, in the form of vLLM's result."""
        self.asked = model_output, request
        if self._read is None:
            raise _Asked
        text, calls = self._read(model_output)[:2]
        found = [_Function(name, Loose(arguments)) for name, arguments in calls]
        return SimpleNamespace(
            tools_called=bool(calls),
            tool_calls=[
                SimpleNamespace(type="function", id=AnyValue(), function=function) for function in found
            ],
            content=Loose(text) if text else None,
        )

    def run(self, _: Any, model_output: Any, request: Any = None, **__: Any) -> tuple[Any, Any]:
        """Stand for the helper that reads an answer, or its parts, with a parser of the test's own."""
        read = self.extract_tool_calls("".join(model_output), request)
        return read.content, read.tool_calls

    def run_stream(self, _: Any, model_deltas: Any, request: Any = None, **__: Any) -> Any:
        """Stand for the helper that reads an answer in parts: the server's reader gets it token by token."""
        text, calls = self.run(_, model_deltas, request)
        return SimpleNamespace(other_content=text if text is not None else Loose(""), tool_calls=calls)


def code_cases(names: dict[str, Any], template: str, tools: list[dict[str, Any]], of: Any) -> Iterator[Case]:
    """Yield the cases of a module's tests. of: lists the tools of a request."""
    holders = [names, *(vars(value) for value in names.values() if isinstance(value, type))]
    for holder in holders:
        for name, test in list(holder.items()):
            if name.startswith("test_") and inspect.isfunction(test) and not hasattr(test, "rows"):
                parser = _Parser(None)
                _run(test, parser, names)
                answer, request = parser.asked
                asked = of(getattr(request, "tools", None)) if request is not None else []
                if answer:
                    known = asked or tools
                    missing = [call for call in _named(test) if call[0] not in _tool_names(known)]
                    case = case_of("vLLM", template, answer, None, missing, known, is_open=bool(missing))
                    yield replace(case, check=_checker(test, names))


def _tool_names(tools: list[dict[str, Any]]) -> set[str]:
    return {tool["function"]["name"] for tool in tools}


def _named(test: Callable[..., Any]) -> list[tuple[str, dict[str, Any]]]:
    """List the tools that a test expects to be called."""
    return [(name, {}) for name in re.findall(r'\bname == "([^"]+)"', inspect.getsource(test))]


def _checker(test: Callable[..., Any], names: dict[str, Any]) -> Callable[[Read], str]:
    return lambda read: _run(test, _Parser(read), names)


def _run(test: Callable[..., Any], parser: _Parser, names: dict[str, Any]) -> str:
    """Run a test; return what is wrong, or nothing."""
    names |= {helper: getattr(parser, method) for helper, method in HELPERS.items()}
    try:
        values = [_value(name, parser, names) for name in inspect.signature(test).parameters]
        test(*values)
    except _Asked:
        return ""
    except AssertionError as error:
        return f"{test.__name__}: {error}"
    except Exception as error:
        return f"cannot run: {error!r}"
    return ""


def _value(name: str, parser: _Parser, names: dict[str, Any]) -> Any:
    """Return what a fixture gives."""
    if name == "self" or name not in names:
        return None
    if PARSER in name:
        return parser
    fixture = names[name]
    return fixture(*[_value(part, parser, names) for part in inspect.signature(fixture).parameters])
