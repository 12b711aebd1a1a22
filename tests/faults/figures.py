"""The suite's table: what was tried, the figure asked and the figure measured, in docs/reliability.md."""

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "reliability.md"

START, END = "<!-- faults -->\n", "<!-- end -->"

HEAD = ("| no. | tried | asked | measured | reached |", "| --: | --- | --- | --- | --- |")

PROPERTY = "fault figure"
"""The name under which a test's report carries rows: so they reach the process that writes the table."""


FAILED = "the test failed"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    number: that of the list in docs/reliability.md. tried: tells the number's rows apart; it stays the same
    whatever the counts, which belong to `measured`.
    """

    number: int
    tried: str
    asked: str
    measured: str
    reached: bool

    def line(self) -> str:
        """Return the row as a line of Markdown."""
        cells = (str(self.number), self.tried, self.asked, self.measured, "yes" if self.reached else "**no**")
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


class Figures:
    """What one test has measured."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def begin(self, number: int, tried: str, asked: str) -> "Figure":
        """Announce a figure: if the test fails before it is measured, its row says so."""
        return Figure(self._node, Row(number, tried, asked, FAILED, False))


class Figure:
    """One figure of a test, with a row of the table from its announcement on."""

    def __init__(self, node: pytest.Item, row: Row) -> None:
        self._node = node
        self._row = row
        self._add(row)

    def check(self, measured: str, reached: bool) -> None:
        """Note what was measured; the test fails where it is not what is asked."""
        self.note(measured, reached)
        assert reached, f"{self._row.tried}: {measured}"

    def note(self, measured: str, reached: bool) -> None:
        """Note a time, or another matter of the machine: no test fails for it."""
        self._add(replace(self._row, measured=measured, reached=reached))

    def _add(self, row: Row) -> None:
        self._node.user_properties.append((PROPERTY, astuple(row)))


def count_told(count: int, asked: int) -> str:
    """Return a count, and how many are asked for where it is smaller."""
    return f"{count:,}" + (f" of {asked:,} asked" if count < asked else "")


def rows_of(report: pytest.TestReport) -> list[Row]:
    """Return the rows of a test's report, the last of each name. None of a failed test is reached."""
    found = [Row(*value) for name, value in report.user_properties if name == PROPERTY]  # type: ignore[misc]
    rows = list({(row.number, row.tried): row for row in found}.values())
    return [replace(row, reached=row.reached and not report.failed) for row in rows]


def read_rows(text: str) -> list[Row]:
    """Return the rows of a document's table."""
    rows = []
    for line in text.partition(START)[2].partition(END)[0].splitlines()[len(HEAD) :]:
        cells = [cell.replace("\\|", "|") for cell in re.split(r"(?<!\\) \| ", line[2:-2])]
        number, tried, asked, measured, reached = cells
        rows.append(Row(int(number), tried, asked, measured, reached == "yes"))
    return rows


def write_rows(path: Path, fresh: Iterable[Row]) -> None:
    """Put rows into a document's table. Rows that were not measured stay: a run may be a part of all."""
    text = path.read_text(encoding="utf-8")
    rows = {(row.number, row.tried): row for row in [*read_rows(text), *fresh]}
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    assert end, f"{path} has no place for the table"
    lines = [row.line() for row in sorted(rows.values(), key=lambda row: row.number)]
    path.write_text(before + start + "\n".join([*HEAD, *lines]) + "\n" + end + after, encoding="utf-8")
