"""A clock that is set, forwards or backwards, makes nothing early or late: waits go by the monotonic one.

The disk tier orders its files by their times, which are of the clock of the day: one that is set has others
go first.
"""

import ast

from ..test_layers import LAYERS, SOURCES, relative
from ..test_security import full_name, imports
from .figures import Figures

WALL_CLOCK = {
    "time.time",
    "time.time_ns",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "time.localtime",
}

TOLD = {
    "api/command/doctor.py": "how long a certificate is valid",
    "api/status/status_feed.py": "times on the page",
    "api/reports/request_report.py": "when a request came, for people",
    "api/openai/chunks.py": "`created` of an answer",
    "api/openai/responses/response_writers.py": "`created_at` of an answer",
    "api/openai/responses/conversation_store.py": "`created_at` of a conversation",
    "api/openai/responses/compaction.py": "`created_at` of a summary",
    "engine/loading/download.py": "which parts of downloads are old, by the times of files",
    "engine/compiling/module_folder.py": "which compiled kernels are old, by the times of files",
}
"""Files of the product that look at the clock of the day, and for what."""


def reads_wall_clock(text: str) -> bool:
    """Whether a file's code names a function of the clock of the day."""
    tree = ast.parse(text)
    full_names = dict(imports(tree))
    names = (
        full_name(node, full_names) for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)
    )
    return any(name in WALL_CLOCK for name in names)


def test_only_what_people_are_told_goes_by_the_clock_of_the_day(figures: Figures) -> None:
    asked = f"the clock of the day in {len(TOLD)} named files, for what people are told and for files' ages"
    figure = figures.begin(
        40, "clocks that are set: what waits and limits; files of the disk tier go by age", asked
    )
    assert reads_wall_clock("from time import time as now\nnow()")
    product = [path for path in SOURCES if relative(path).split("/")[0] in LAYERS]
    found = {relative(path) for path in product if reads_wall_clock(path.read_text(encoding="utf-8"))}
    figure.check(f"in {len(found)} files of {len(product)}", found == set(TOLD))
