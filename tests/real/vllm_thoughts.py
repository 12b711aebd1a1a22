"""The cases of vLLM's tests of thoughts: the parameters of its tests, read by loading the test modules."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .reference_cases import Case, tools_of_calls
from .templates_on_disk import data_folder
from .vllm_cases import ROW_NAMES, stand_ins

# The test modules, and the templates of the models whose thoughts they are about.
TEMPLATES = {
    "deepseekr1": "llama-cpp-deepseek-r1",
    "gemma4": "google-gemma-4-31B-it",
    "glm4_moe": "GLM-4.6",
    "minimax_m2": "MiniMax-M2",
    "nemotron_v3": "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "qwen3": "Qwen3.5-4B",
    "step3p5": "StepFun3.5-Flash",
}
CALLS = "<tool_call>"
CALL = re.compile(r"<function=(\w+)>\s*<parameter=(\w+)>\n(.*?)\n</parameter>", re.DOTALL)  # Qwen's
OUTPUT = ("output", "model_output")
THOUGHTS = ("reasoning", "expected_reasoning")
TEXT = ("content", "expected_content")


def thought_cases() -> list[Case]:
    """List the cases; none where the data is not there."""
    cases: dict[tuple[Any, ...], Case] = {}
    with stand_ins():
        for name, template in TEMPLATES.items():
            path = data_folder() / "vllm" / f"test_{name}_reasoning_parser.py"
            for case in _cases_of(path, template) if path.exists() else ():
                # Where an answer means another thing in a stream, its stream is last and counts, as here.
                cases[case.template, case.answer, case.thinks] = case
    return list(cases.values())


def _cases_of(path: Path, template: str) -> Iterator[Case]:
    names: dict[str, Any] = {"__name__": path.stem}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    found = []
    for name, test in names.items():
        for rows in getattr(test, "rows", ()) if name.startswith("test_") else ():
            found += [(row, "disabled" not in name) for row in _rows(rows)]
    for row, thinks in sorted(found, key=lambda item: bool(item[0].get("streaming"))):
        answer, thoughts, text = (_first(row, keys) for keys in (OUTPUT, THOUGHTS, TEXT))
        if isinstance(answer, str) and any(key in row for key in THOUGHTS):
            calls = CALL.findall(text or "")
            yield Case(
                source="vLLM",
                template=template,
                answer=answer,
                text=(text or "").partition(CALLS)[0],
                thoughts=thoughts or "",
                calls=tuple((name, json.dumps({key: value})) for name, key, value in calls),
                tools=tools_of_calls([(name, {key: value}) for name, key, value in calls]),
                thinks=thinks,
            )


def _rows(parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the values of each run of a test, those of a dictionary beside the others."""
    keys, rows = (parameters.get(name, "") for name in ROW_NAMES)
    names = [key.strip() for key in keys.split(",")] if isinstance(keys, str) else list(keys)
    for row in rows:
        values = row if isinstance(row, list | tuple) else (row,)
        given = dict(zip(names, values, strict=False))
        yield given | (given["param_dict"] if isinstance(given.get("param_dict"), dict) else {})


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if key in row), None)
