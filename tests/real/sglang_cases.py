"""SGLang's tests of its detectors of calls and thoughts: run with the server's reader in their place.

They are in no package, so a checkout must be there. Only tests that read whole answers are tried: what each
part of an answer yields, and what a detector holds inside, is that detector's own.
"""

import inspect
import json
import re
import unittest
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .reference_cases import Case, Read, case_of
from .vllm_cases import Noted, stand_ins
from .vllm_code import Loose

# The detectors, and the templates of the models whose format they read.
CALLS = {
    "DeepSeekV31Detector": "deepseek-ai-DeepSeek-V3.1",
    "DeepSeekV32Detector": "deepseek-ai-DeepSeek-V3.2",
    "DeepSeekV3Detector": "llama-cpp-deepseek-r1",
    "DeepSeekV4Detector": "deepseek-ai-DeepSeek-V4",
    "Gemma4Detector": "google-gemma-4-31B-it",
    "GigaChat3Detector": "GigaChat3-10B-A1.8B",
    "Glm47MoeDetector": "GLM-4.7-Flash",
    "Glm4MoeDetector": "GLM-4.6",
    "GptOssDetector": "openai-gpt-oss-120b",
    "HermesDetector": "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "KimiK2Detector": "Kimi-K2-Instruct",
    "Lfm2Detector": "LFM2.5-8B-A1B",
    "Llama32Detector": "meta-llama-Llama-3.1-8B-Instruct",
    "MistralDetector": "mistralai-Mistral-Nemo-Instruct-2407",
    "PoolsideV1Detector": "poolside-Laguna-XS.2",
    "Qwen25Detector": "Qwen-Qwen2.5-7B-Instruct",
    "Qwen3CoderDetector": "Qwen3-Coder",
}
THOUGHTS = {
    "DeepSeekR1Detector": "llama-cpp-deepseek-r1",
    "Gemma4Detector": "google-gemma-4-31B-it",
    "Glm45Detector": "GLM-4.6",
    "KimiK2Detector": "Kimi-K2-Thinking",
    "Nemotron3Detector": "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "Qwen3Detector": "Qwen-Qwen3-0.6B",
}
NEWER = (  # a mark of a newer format that the same detector reads, and its template
    ("[ARGS]", CALLS["MistralDetector"], "mistralai-Ministral-3-14B-Reasoning-2512"),
    ("<|function_call|>", CALLS["GigaChat3Detector"], "GigaChat3.1-10B-A1.8B"),
)
FILES = ("test_*_detector.py", "test_function_call_parser.py", "test_reasoning_parser.py")
OWN = re.compile(r"(?:detector|parser)\.(\w+)")
READS = {"detect_and_parse", "srt", "function_call"}


class _Asked(Exception):
    """A test has given its answer to a detector."""


class _Detector:
    """Stands for a detector. read: reads an answer; None to note the first answer only."""

    read: Read | None = None

    def __init__(self, name: str) -> None:
        self._name = name

    def detect_and_parse(self, text: str, tools: Any = ()) -> Any:
        """Read a whole answer, in the form of SGLang's result."""
        if _Detector.read is None:
            raise _Asked(self._name, text, tools)
        words, calls, thoughts = _Detector.read(text)
        found = [
            SimpleNamespace(name=name, parameters=Loose(arguments), tool_index=i)
            for i, (name, arguments) in enumerate(calls)
        ]
        return SimpleNamespace(normal_text=Loose(words), reasoning_text=Loose(thoughts), calls=found)


def sglang_cases(checkout: Path) -> list[Case]:
    """List the cases of a checkout of SGLang; none where its tests are not there."""
    cases: dict[tuple[Any, ...], Case] = {}
    paths = sorted({path for pattern in FILES for path in checkout.rglob(pattern)})
    with stand_ins():
        for path in paths:
            for case in _cases_of(path) if "detector" in path.read_text(encoding="utf-8").lower() else ():
                cases.setdefault((case.template, case.answer, case.thinks), case)
    return list(cases.values())


def _cases_of(path: Path) -> Iterator[Case]:
    """Yield the cases of one file, which is loaded with stand-ins for what it imports."""
    names: dict[str, Any] = {"__name__": path.stem}
    exec(compile(_plain_classes(path.read_text(encoding="utf-8")), str(path), "exec"), names)
    thinks = "reasoning" in path.stem
    templates = THOUGHTS if thinks else CALLS
    for name in templates:
        if name in names:
            names[name] = lambda *args, _name=name, **kw: _detector(_name, args, kw)
    for group in list(names.values()):
        if isinstance(group, type) and issubclass(group, unittest.TestCase):
            for name in unittest.TestLoader().getTestCaseNames(group):
                yield from _case(group, name, templates, thinks)


def _plain_classes(source: str) -> str:
    """Return a test module with Python's own class of tests in the place of SGLang's."""
    return "import unittest\n" + re.sub(r"\(CustomTestCase\)", "(unittest.TestCase)", source)


def _detector(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> _Detector:
    """Make a stand-in. Raises TypeError for one with options, which are SGLang's own."""
    if args or options:
        raise TypeError(f"{name} with options")
    return _Detector(name)


def _case(
    group: type[unittest.TestCase], name: str, templates: dict[str, str], thinks: bool
) -> Iterator[Case]:
    """Yield the case of a test, if it reads whole answers only."""
    if not set(OWN.findall(inspect.getsource(getattr(group, name)))) <= READS:
        return
    _Detector.read = None
    try:
        _run(group, name)
    except _Asked as asked:
        detector, answer, given = asked.args
    except Exception:  # a test of something else
        return
    else:
        return
    template = templates[detector]
    for mark, older, newer in NEWER:
        template = newer if template == older and mark in answer else template
    tools = [_tool(tool) for tool in given or ()]
    case = case_of("SGLang (Python)", template, answer, None, [], tools)
    yield replace(case, tools=tuple(tools), thinks=thinks, check=_checker(group, name))


def _tool(tool: Noted) -> dict[str, Any]:
    function = tool.function.given
    return {"type": "function", "function": json.loads(json.dumps(function))}


def _run(group: type[unittest.TestCase], name: str) -> None:
    test: Any = group(name)
    test.setUp()
    getattr(test, name)()


def _checker(group: type[unittest.TestCase], name: str) -> Callable[[Read], str]:
    def check(read: Read) -> str:
        _Detector.read = read
        try:
            with stand_ins():  # some tests import things of SGLang's themselves
                _run(group, name)
        except AssertionError as error:
            return f"{name}: {error}"
        except Exception as error:
            return f"cannot run: {error!r}"
        return ""

    return check
