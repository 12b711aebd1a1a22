"""The schemas that zod writes: none is refused, and nearly all of them is enforced.

PENSIEVE_ZOD names a folder with node_modules/zod; without it the test is skipped, where `CI` is set it fails.
"""

import json
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.tidy_schema import tidy_schema

from .byte_model import Model
from .test_pydantic_schemas import takes

LOOSE = {"pattern", "propertyNames"}


def zod_schemas() -> list[tuple[Any, Any]]:
    """Return schemas that zod writes, each with a value that conforms."""
    folder, node = os.environ.get("PENSIEVE_ZOD"), shutil.which("node")
    if folder is None or node is None:
        assert "CI" not in os.environ, "PENSIEVE_ZOD and node are needed"
        pytest.skip("PENSIEVE_ZOD names no folder with node_modules/zod, or there is no node")
    script = Path(__file__).parent / "zod_types.mjs"
    done = subprocess.run([node, script, folder], capture_output=True, text=True, timeout=60, check=True)
    return [(schema, value) for schema, value in json.loads(done.stdout)]


@pytest.mark.slow
def test_every_type_of_zod_is_taken_as_an_answer(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    found = zod_schemas()
    assert len(found) > 100
    caplog.set_level(logging.INFO)
    grammars = GrammarCache(model.vocabulary)
    for schema, value in found:
        assert tidy_schema(schema) == schema
        grammar = grammars.compile(GrammarKey((), None, schema))
        assert takes(model, grammar, json.dumps(value, ensure_ascii=False)), schema
    left_out = {word for line in caplog.messages for word in line.partition(" its ")[2].split(", ")}
    assert left_out <= LOOSE
    print(f"{len(found)} schemas, of {len(caplog.messages)} a part is left out: {sorted(left_out)}")
