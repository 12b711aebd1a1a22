"""The cases of vLLM's tests of tool parsers: the parameters of its tests, read by loading the test modules.

Whatever those modules import from vLLM and its libraries is a stand-in that only notes what it is given.
"""

import importlib.machinery
import json
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .reference_cases import Case, case_of
from .templates_on_disk import data_folder
from .vllm_code import code_cases

# The test modules, and the templates of the models whose format they are about.
TEMPLATES = {
    "apertus": "Apertus-8B-Instruct",
    "deepseekv3": "llama-cpp-deepseek-r1",
    "deepseekv31": "deepseek-ai-DeepSeek-V3.1",
    "deepseekv32": "deepseek-ai-DeepSeek-V3.2",
    "deepseekv4": "deepseek-ai-DeepSeek-V4",
    "gemma4": "google-gemma-4-31B-it",
    "gigachat3": "GigaChat3-10B-A1.8B",
    "glm47_moe": "GLM-4.7-Flash",
    "glm4_moe": "GLM-4.6",
    "granite": "ibm-granite-granite-3.3-2B-Instruct",
    "granite4": "ibm-granite-granite-4.0",
    "hermes": "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "kimi_k2": "Kimi-K2-Instruct",
    "lfm2": "LFM2.5-8B-A1B",
    "llama3_json": "meta-llama-Llama-3.1-8B-Instruct",
    "minicpm5xml": "openbmb-MiniCPM5-1B",
    "minimax_m2": "MiniMax-M2",
    "minimax_m3": "MiniMax-M3",
    "poolside_v1": "poolside-Laguna-XS.2",
    "qwen3coder": "Qwen3-Coder",
    "step3p5": "StepFun3.5-Flash",
}
FOREIGN = (
    "vllm",
    "sglang",
    "tests",
    "transformers",
    "openai",
    "partial_json_parser",
    "openai_harmony",
    "torch",
    "xgrammar",
)
ROW_NAMES = ("argnames", "argvalues")


def vllm_cases() -> list[Case]:
    """List the cases; none where the data is not there."""
    folder = data_folder() / "vllm"
    cases: dict[tuple[Any, ...], Case] = {}  # each once: some tests are run in two ways
    with stand_ins():
        for name, template in TEMPLATES.items():
            path = folder / f"test_{name}_tool_parser.py"
            for case in _cases_of(path, template) if path.exists() else ():
                cases.setdefault((case.template, case.answer, case.calls, case.check is None), case)
    return list(cases.values())


class Noted:
    """Stands for any object of a library; one that is made with keywords notes them."""

    def __init__(self, *_: Any, **given: Any) -> None:
        self.given = given

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__dict__.get("given", {}).get(name, Noted())

    def __call__(self, *_: Any, **__: Any) -> "Noted":
        return Noted()


class _Anything(type):
    """Makes classes of which every object is an instance."""

    def __instancecheck__(cls, _: object) -> bool:
        return True

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Noted()


class _Module(types.ModuleType):
    """Stands for a module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (Noted,), {})


class _Marks:
    """Stands for `pytest.mark`: notes the parameters of tests, and nothing else."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: lambda function: function

    def parametrize(self, *values: Any, **named: Any) -> Any:
        """Note parameters beside a test."""

        def note(function: Any) -> Any:
            function.rows = [
                *getattr(function, "rows", ()),
                dict(zip(ROW_NAMES, values, strict=False)) | named,
            ]
            return function

        return note


def _fixture_of(*functions: Any, **_: Any) -> Any:
    """Stand for `pytest.fixture`: return the function as it is."""
    return functions[0] if functions else lambda function: function


def _new_pytest() -> types.ModuleType:
    module: Any = _Module("pytest")
    module.mark, module.fixture = _Marks(), _fixture_of
    module.param = lambda *values, **_: values
    return module  # type: ignore[no-any-return]


class _Finder:
    """Finds stand-ins for the modules of libraries that need not be there."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in FOREIGN:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = _Module(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Leave the module as it is."""


@contextmanager
def stand_ins() -> Iterator[None]:
    """Put stand-ins in the place of libraries while test modules are loaded."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in FOREIGN}
    before["pytest"] = sys.modules["pytest"]
    sys.modules["pytest"] = _new_pytest()
    finder: Any = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in FOREIGN]:
            del sys.modules[name]
        sys.modules.update(before)


def _cases_of(path: Path, template: str) -> Iterator[Case]:
    names: dict[str, Any] = {"__name__": path.stem}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    tools = [tool for name, value in names.items() if "tools" in name.lower() for tool in _tools(value)]
    yield from code_cases(names, template, tools, _tools)
    holders = [names, *(vars(value) for value in names.values() if isinstance(value, type))]
    for holder in holders:
        for name, value in holder.items():
            if name == "test_config":
                yield from _config_cases(_fixture(value), template)
            for rows in getattr(value, "rows", ()) if name.startswith("test_") else ():
                yield from _marked_cases(rows, template, tools)


def _fixture(value: Any) -> Any:
    """Return what a fixture gives, None where it needs more than itself."""
    try:
        return value() if not value.__code__.co_argcount else value(None)
    except Exception:
        return None


def _tools(value: Any) -> list[dict[str, Any]]:
    """Return the tools that a list or a fixture holds."""
    found = value if isinstance(value, list) else _fixture(value) if callable(value) else None
    found = found if isinstance(found, list) else ()
    tools = [part.given.get("function") for part in found if isinstance(part, Noted)]
    functions = [tool.given if isinstance(tool, Noted) else tool for tool in tools]
    return [{"type": "function", "function": f} for f in functions if isinstance(f, dict) and "name" in f]


def _config_cases(config: Any, template: str) -> Iterator[Case]:
    if not isinstance(config, Noted) or "single_tool_call_output" not in config.given:
        return
    given = config.given
    call = (given.get("single_tool_call_expected_name", "get_weather"),)
    arguments = given.get("single_tool_call_expected_args", {"city": "Tokyo"})
    text = given.get("single_tool_call_expected_content") or ""
    yield _case(template, given["single_tool_call_output"], text, [(*call, arguments)], [])
    yield _case(template, given["no_tool_calls_output"], given["no_tool_calls_output"], [], [])


def _marked_cases(parameters: dict[str, Any], template: str, tools: list[dict[str, Any]]) -> Iterator[Case]:
    keys, rows = (parameters.get(name, "") for name in ROW_NAMES)
    keys = [key.strip() for key in keys.split(",")] if isinstance(keys, str) else list(keys)
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) != len(keys):
            continue
        given = dict(zip(keys, row, strict=True))
        calls = _calls(given)
        if calls is not None and isinstance(given.get("model_output"), str):
            text = given.get("expected_content") or ""
            yield _case(template, given["model_output"], text, calls, tools)


def _calls(given: dict[str, Any]) -> list[tuple[str, Any]] | None:
    """Return the calls that one test expects, None where it expects other things."""
    if isinstance(names := given.get("expected_names"), list) and "expected_args_list" in given:
        return list(zip(names, given["expected_args_list"], strict=True))
    listed = given.get("expected_tool_calls")
    if not isinstance(listed, list) or not all(isinstance(call, Noted) for call in listed):
        return None
    functions = [call.given.get("function", call) for call in listed]
    return [(function.name, json.loads(function.arguments)) for function in functions]


def _case(
    template: str, answer: str, text: str, calls: list[tuple[str, Any]], tools: list[dict[str, Any]]
) -> Case:
    if "<|function_call|>" in answer:
        template = template.replace("GigaChat3-", "GigaChat3.1-")
    return case_of("vLLM", template, answer, text, calls, tools)
