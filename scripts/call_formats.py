"""Writes the table of docs/call-formats.md from what scripts/real_data.py has fetched.

    .venv/bin/python scripts/call_formats.py [--tests CHECKOUT] [PART_OF_A_TEMPLATES_NAME ...]

With names, it prints instead what goes wrong with the templates whose names hold one of them. With a checkout
of SGLang or ollama, whose tests are in no package, it judges the cases of its tests and writes its table.
"""

import argparse
import sys
from pathlib import Path

from pensieve.tests.real.case_judge import Verdict
from pensieve.tests.real.format_table import (
    DOCUMENT,
    END,
    OLLAMA_START,
    SGLANG_START,
    START,
    Tally,
    all_cases,
    by_template,
    judge_all,
    table,
    tally,
)
from pensieve.tests.real.ollama_cases import ollama_cases
from pensieve.tests.real.reference_cases import Case
from pensieve.tests.real.sglang_cases import sglang_cases

WIDTH = 200  # of a printed answer


def main() -> int:
    """Write a table, or print what goes wrong."""
    parser = argparse.ArgumentParser(description="how well answers of real models are read")
    parser.add_argument("--tests", type=Path, metavar="CHECKOUT", help="of SGLang or ollama, with its tests")
    parser.add_argument("names", nargs="*", help="parts of templates' names")
    given = parser.parse_args()
    found, start = checkout_cases(given.tests) if given.tests else (all_cases(), START)
    cases = {
        template: listed
        for template, listed in found.items()
        if not given.names or any(name.lower() in template.lower() for name in given.names)
    }
    if not cases:
        print("no cases: run scripts/real_data.py")
        return 1
    tallies: dict[str, Tally] = {}
    for template, listed in cases.items():
        verdicts = judge_all(template, listed)
        tallies[template] = tally(listed, verdicts)
        for verdict in verdicts if given.names else ():
            report(verdict)
    if given.names:
        print(table(tallies))
        return 0
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(start)
    text = f"{head}{start}\n{table(tallies)}\n{END}{rest.partition(END)[2]}"
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


def checkout_cases(checkout: Path) -> tuple[dict[str, list[Case]], str]:
    """Return the cases of a checkout, by template, and the mark of their table."""
    if cases := ollama_cases(checkout):
        return by_template(cases), OLLAMA_START
    return by_template(sglang_cases(checkout)), SGLANG_START


def report(verdict: Verdict) -> None:
    """Print what is wrong with a case, if anything is."""
    answer = verdict.case.answer
    if verdict.fault:
        print(
            f"{verdict.case.template} ({verdict.case.source}): wrong: {answer[:WIDTH]!r}\n    {verdict.fault}"
        )
    if verdict.allowed is False:
        print(f"{verdict.case.template}: refused at the end of {verdict.refused_at[-WIDTH:]!r}")


if __name__ == "__main__":
    sys.exit(main())
