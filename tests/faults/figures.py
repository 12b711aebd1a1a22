"""The suite's table: what was tried, the figure asked and the figure measured, in docs/reliability.md."""

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "reliability.md"

START, END = "<!-- faults -->\n", "<!-- end -->"

HEAD = ("| no. | tried | asked | measured | reached |", "| --: | --- | --- | --- | --- |")

PROPERTY = "fault figure"
"""The name under which a test's report carries rows: so they reach the process that writes the table."""


@dataclass(frozen=True)
class Row:
    """A row of the table. number: that of the list in docs/reliability.md; `tried` tells its rows apart."""

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

    def check(self, row: Row) -> None:
        """Note a row; the test fails where the figure is not reached."""
        self.note(row)
        assert row.reached, row.line()

    def note(self, row: Row) -> None:
        """Note a row whose figure is a time, or another matter of the machine: no test fails for it."""
        self._node.user_properties.append((PROPERTY, astuple(row)))


def rows_of(properties: Iterable[tuple[str, object]]) -> list[Row]:
    """Return the rows that a test's report carries."""
    return [Row(*value) for name, value in properties if name == PROPERTY and isinstance(value, list | tuple)]


def read_rows(text: str) -> list[Row]:
    """Return the rows of a document's table."""
    rows = []
    for line in text.partition(START)[2].partition(END)[0].splitlines()[len(HEAD) :]:
        cells = [cell.replace("\\|", "|") for cell in re.split(r"(?<!\\) \| ", line[2:-2])]
        number, tried, asked, measured, reached = cells
        rows.append(Row(int(number), tried, asked, measured, reached == "yes"))
    return rows


def write_rows(path: Path, fresh: Iterable[Row]) -> None:
    """Put rows into a document's table.

    Rows of other numbers stay: a run may have been a part of the suite. Of one number the old rows go, unless
    the run measured none of it.
    """
    fresh = list({(row.number, row.tried): row for row in fresh}.values())
    text = path.read_text(encoding="utf-8")
    measured = {row.number for row in fresh}
    kept = [row for row in read_rows(text) if row.number not in measured]
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    assert end, f"{path} has no place for the table"
    rows = sorted([*kept, *fresh], key=lambda row: row.number)
    path.write_text(before + start + "\n".join([*HEAD, *(row.line() for row in rows)]) + "\n" + end + after)
