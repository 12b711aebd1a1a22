"""The table of docs/call-formats.md: how many reference answers of each template are read and allowed."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

from .case_judge import Judge, Verdict
from .gateway_cases import gateway_cases
from .llama_cases import llama_cases
from .old_llama_cases import old_llama_cases
from .reference_cases import Case
from .templates_on_disk import ROOT
from .vllm_cases import vllm_cases
from .vllm_thoughts import thought_cases

DOCUMENT = ROOT / "docs" / "call-formats.md"
START, END = "<!-- cases -->", "<!-- end -->"
SGLANG_START, OLLAMA_START = "<!-- cases of SGLang -->", "<!-- cases of ollama -->"
HEAD = [
    "| template | tried | right | calls judged | allowed | set aside |",
    "| --- | --: | --: | --: | --: | --: |",
]
ROW = re.compile(r"\| ([^|]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|")


@dataclass(frozen=True, slots=True)
class Tally:
    """The numbers of one template.

    tried: cases that were read. right: those of them that were read right.
    judged: answers with calls that a grammar constrains. allowed: those of them that it allows.
    set_aside: cases that cannot be judged.
    """

    tried: int = 0
    right: int = 0
    judged: int = 0
    allowed: int = 0
    set_aside: int = 0


def all_cases() -> dict[str, list[Case]]:
    """Return the cases that are on disk, by template."""
    return by_template(
        [*llama_cases(), *old_llama_cases(), *vllm_cases(), *thought_cases(), *gateway_cases()]
    )


def by_template(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Sort cases by their templates."""
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        found[case.template].append(case)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def judge_all(template: str, cases: Iterable[Case]) -> list[Verdict]:
    """Judge those of a template's cases that can be judged."""
    judge = Judge(template)
    return [judge.judge(case) for case in cases if not case.set_aside]


def tally(cases: Iterable[Case], verdicts: Iterable[Verdict]) -> Tally:
    """Count a template's verdicts."""
    verdicts = list(verdicts)
    judged = [verdict for verdict in verdicts if verdict.allowed is not None]
    return Tally(
        tried=len(verdicts),
        right=sum(not verdict.fault for verdict in verdicts),
        judged=len(judged),
        allowed=sum(verdict.allowed is True for verdict in judged),
        set_aside=sum(bool(case.set_aside) for case in cases),
    )


def table(tallies: dict[str, Tally]) -> str:
    """Write the table."""
    total = Tally(*(sum(getattr(one, name.name) for one in tallies.values()) for name in fields(Tally)))
    rows = [
        f"| {name} | {' | '.join(str(number) for number in astuple(one))} |"
        for name, one in [*tallies.items(), ("all", total)]
    ]
    return "\n".join([*HEAD, *rows])


def documented() -> dict[str, Tally]:
    """Read the numbers of the document."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    return {name: Tally(*map(int, numbers)) for name, *numbers in ROW.findall(text)}
