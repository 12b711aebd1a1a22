"""The cases of the tests of SGLang's gateway, read out of their source in Rust.

A test that parses one answer is a case. It may say less than all: what it does not assert counts for nothing.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from .reference_cases import Case, case_of
from .templates_on_disk import data_folder

# The parsers that the tests make, and the templates of the models whose format they read.
TEMPLATES = {
    "CohereParser::new": "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "DeepSeekParser::new": "llama-cpp-deepseek-r1",
    "DeepSeek31Parser::new": "deepseek-ai-DeepSeek-V3.1",
    "DeepSeekDsmlParser::v32": "deepseek-ai-DeepSeek-V3.2",
    "DeepSeekDsmlParser::v4": "deepseek-ai-DeepSeek-V4",
    "Glm4MoeParser::glm45": "GLM-4.6",
    "Glm4MoeParser::glm47": "GLM-4.7-Flash",
    "KimiK2Parser::new": "Kimi-K2-Instruct",
    "LlamaParser::new": "meta-llama-Llama-3.1-8B-Instruct",
    "MinimaxM2Parser::new": "MiniMax-M2",
    "MistralParser::new": "mistralai-Mistral-Nemo-Instruct-2407",
    "QwenParser::new": "Qwen-Qwen2.5-7B-Instruct",
    "QwenXmlParser::new": "Qwen3-Coder",
}
LITERAL = re.compile(r'r(?P<hashes>#*)"(?P<raw>.*?)"(?P=hashes)|"(?P<quoted>(?:[^"\\]|\\.)*)"', re.DOTALL)
TEST = re.compile(r"async fn (test_\w+)\(\) \{\n(.*?)\n\}\n", re.DOTALL)
PARSER = re.compile(r"(\w+Parser::\w+)\(")
INPUT = re.compile(r"let input\s*=\s*(.*?);\n\n?\s*(?:let|//|assert)", re.DOTALL)
RESULT = re.compile(r"let \((\w+), (\w+)\) = parser\.parse_complete\(input\)")
ARGUMENTS = r"let (?P<var>\w+)[^=;]*=\s*serde_json::from_str\(\s*&{calls}\[(?P<of>\d+)\]\.function\.arguments"
VALUE = r"assert_eq!\(\s*(?P<from>\w+)(?P<path>(?:\[[^\]]+\])+),\s*(?P<value>.*?),?\s*\);"
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


def gateway_cases() -> list[Case]:
    """List the cases; none where the data is not there."""
    found: dict[tuple[str, str], Case] = {}
    for path in sorted((data_folder() / "gateway").glob("tool_parser_*.rs")):
        for _, body in TEST.findall(path.read_text(encoding="utf-8")):
            for case in _case(body):
                found.setdefault((case.template, case.answer), case)
    return list(found.values())


def _case(body: str) -> Iterator[Case]:
    """Yield the case of one test, if it parses one answer and nothing else."""
    parsers, inputs, results = set(PARSER.findall(body)), INPUT.findall(body), RESULT.findall(body)
    if not (len(parsers) == len(inputs) == len(results) == 1 == body.count("parse_")):
        return
    template, answer = TEMPLATES.get(parsers.pop(), ""), _text(inputs[0])
    text, calls = results[0]
    count = _count(body, calls)
    if not template or answer is None or count is None:
        return
    names = dict(re.findall(rf'{calls}\[(\d+)\]\.function\.name,\s*"([^"]+)"', body))
    arguments = _arguments(body, calls)
    found = [(names.get(str(i), ""), arguments.get(i, {})) for i in range(count)]
    yield case_of("SGLang", template, answer, _expected_text(body, text, answer), found, is_open=True)


def _count(body: str, calls: str) -> int | None:
    """Return the number of calls that a test expects; None where it does not say."""
    count = re.search(rf"assert_eq!\(\s*{calls}\.len\(\),\s*(\d+)", body)
    return int(count[1]) if count else 0 if f"assert!({calls}.is_empty()" in body else None


def _expected_text(body: str, name: str, answer: str) -> str | None:
    found = re.search(rf"assert_eq!\(\s*{name},\s*(.*?),?\s*\);", body, re.DOTALL)
    if name.startswith("_") or found is None:
        return None
    return answer if found[1] == "input" else _text(found[1])


def _arguments(body: str, calls: str) -> dict[int, dict[str, Any]]:
    """Return what a test says of the arguments of each call; a list's items have their places as keys."""
    of: dict[str, int] = {}
    found: dict[int, dict[str, Any]] = {}
    for match in re.finditer(f"{ARGUMENTS.format(calls=calls)}|{VALUE}", body, re.DOTALL):
        if match["var"]:
            of[match["var"]] = int(match["of"])
        elif match["from"] in of and (value := _value(match["value"])) is not None:
            holder = found.setdefault(of[match["from"]], {})
            *path, last = (part.strip('"') for part in re.findall(r"\[([^\]]+)\]", match["path"]))
            for part in path:
                holder = holder.setdefault(part, {})
            holder[last] = value[0]
    return found


def _value(source: str) -> tuple[Any] | None:
    """Return a value in a tuple; None where the source is none that is known here."""
    if source == "serde_json::Value::Null":
        return (None,)
    if (text := _text(source)) is not None:
        return (text,)
    json_text = re.fullmatch(r"json!\((.*)\)", source, re.DOTALL)
    try:
        return (json.loads(json_text[1] if json_text else source),)
    except ValueError:
        return None


def _text(source: str) -> str | None:
    """Return what a literal, or several in `concat!`, stands for."""
    literals = list(LITERAL.finditer(source))
    rest = LITERAL.sub("", source).replace("concat!", "")
    if not literals or rest.strip("(), \n"):
        return None
    return "".join(_unescape(found["quoted"]) if found["raw"] is None else found["raw"] for found in literals)


def _unescape(text: str) -> str:
    text = re.sub(r"\\\n\s*", "", text)
    text = re.sub(r"\\u\{([0-9a-fA-F]+)\}", lambda found: chr(int(found[1], 16)), text)
    return re.sub(r"\\(.)", lambda found: ESCAPES.get(found[1], found[1]), text, flags=re.DOTALL)
