"""What a search command prints is read, whatever its form."""

import json

import pytest

from pensieve.api.web_search import MAX_TEXT_CHARS, Hit, in_domains, read_hits

ENTRY = {"name": "T", "link": "https://a.org", "description": "D"}
HIT = Hit("T", "https://a.org", "D")


@pytest.mark.parametrize(
    ("output", "hits"),
    [
        (json.dumps([ENTRY, 3, ENTRY]), [HIT, HIT]),
        (json.dumps({"results": [ENTRY]}, indent=2), [HIT]),
        (json.dumps(ENTRY), [HIT]),
        (f"searching…\n{json.dumps(ENTRY)}\n{{broken\n", [HIT]),
        ("Just words\nin two lines\n", [Hit("Search results", "", "Just words\nin two lines")]),
        ("17", [Hit("Search results", "", "17")]),
        ("", []),
        ("[]", []),
        ('{"url": "u", "title": 3, "text": "\\ud800"}', [Hit("u", "u", "?")]),
        (json.dumps(ENTRY | {"description": "x" * 9999}), [Hit("T", "https://a.org", "x" * MAX_TEXT_CHARS)]),
        ("[" * 100_000, [Hit("Search results", "", "[" * 10 * MAX_TEXT_CHARS)]),
    ],
)
def test_output_is_read(output: str, hits: list[Hit]) -> None:
    assert list(read_hits(output)) == hits


@pytest.mark.parametrize(
    ("url", "is_in"),
    [
        ("https://a.org/x", True),
        ("https://www.A.org", True),
        ("https://aa.org", False),
        ("https://b.org/docs/1", True),
        ("https://b.org/", False),
        ("no url", False),
        ("", False),
        ("https://[broken", False),
    ],
)
def test_domains_hold_their_hosts_and_paths(url: str, is_in: bool) -> None:
    assert in_domains(url, ["a.org", "https://b.org/docs"]) == is_in
