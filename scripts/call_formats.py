"""Writes the table of docs/call-formats.md from what scripts/real_data.py has fetched.

    .venv/bin/python scripts/call_formats.py [PART_OF_A_TEMPLATES_NAME ...]

With names, it prints instead what goes wrong with the templates whose names hold one of them.
"""

import sys

from pensieve.tests.real.case_judge import Verdict
from pensieve.tests.real.format_table import DOCUMENT, END, START, Tally, all_cases, judge_all, table, tally

WIDTH = 200  # of a printed answer


def main(names: list[str]) -> int:
    """Write the table, or print what goes wrong."""
    cases = {
        template: found
        for template, found in all_cases().items()
        if not names or any(name.lower() in template.lower() for name in names)
    }
    if not cases:
        print("no cases: run scripts/real_data.py")
        return 1
    tallies: dict[str, Tally] = {}
    for template, found in cases.items():
        verdicts = judge_all(template, found)
        tallies[template] = tally(found, verdicts)
        for verdict in verdicts if names else ():
            report(verdict)
    if names:
        print(table(tallies))
        return 0
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(START)
    text = f"{head}{START}\n{table(tallies)}\n{END}{rest.partition(END)[2]}"
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


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
    sys.exit(main(sys.argv[1:]))
