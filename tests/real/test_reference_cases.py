"""Answers as real models write them, from the tests of llama.cpp: read and allowed as often as documented."""

from typing import Any

import pytest

from .format_table import Tally, all_cases, documented, judge_all, tally
from .templates_on_disk import REASON

CASES = all_cases()
TEMPLATES: list[Any] = list(CASES) or [pytest.param("none", marks=pytest.mark.skip(reason=REASON))]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_template_has_more_answers_misread_or_refused_than_documented(template: str) -> None:
    """What has become better is no failure, but scripts/call_formats.py should write it down."""
    found = tally(CASES[template], verdicts := judge_all(template, CASES[template]))
    known = documented().get(template, Tally())
    assert found.tried >= known.tried
    faults = [(verdict.case.answer, verdict.fault) for verdict in verdicts if verdict.fault]
    assert len(faults) <= known.tried - known.right, faults
    refused = [verdict.refused_at for verdict in verdicts if verdict.allowed is False]
    assert len(refused) <= known.judged - known.allowed, refused
