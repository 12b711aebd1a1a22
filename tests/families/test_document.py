"""docs/models.md says what the table of families says, and the table what mlx-lm has."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_lm.utils
import pytest
from mlx_lm.models.cache import make_prompt_cache

from pensieve.api.formats.tool_calls.declared_formats import DECLARED
from pensieve.api.formats.tool_calls.registry import SYNTAXES

from .document import render
from .family import Group
from .known_models import KNOWN_MODELS
from .refusals import JUDGED_WHOLE, NEEDS_A_PACKAGE, NEEDS_METAL, REFUSALS
from .table import FAMILIES, GROUPS, HELPERS, installed_files

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_document_says_what_the_table_says() -> None:
    """After a change of the table: `.venv/bin/python scripts/docs.py`."""
    assert render() == DOCUMENT.read_text(encoding="utf-8")


def test_the_table_has_every_model_file_of_mlx_lm() -> None:
    """After an update of mlx-lm: give its new model files rows, and name its new helpers."""
    files = {family.file for family in FAMILIES.values()}
    assert installed_files() == files | HELPERS
    assert not files & HELPERS


def test_no_two_rows_share_a_name() -> None:
    assert len(FAMILIES) == sum(len(group.families) for group in GROUPS)


def test_what_the_tables_name_exists() -> None:
    assert {model.family for model in KNOWN_MODELS} <= set(FAMILIES)
    declared = {tool_format.syntax.module for tool_format in DECLARED}
    assert {model.calls for model in KNOWN_MODELS} <= {"", *SYNTAXES, *declared}
    assert {*REFUSALS, *NEEDS_METAL, *JUDGED_WHOLE} <= set(FAMILIES)


def test_states_have_the_sizes_that_were_worked_out_by_hand() -> None:
    states = {model.name: model.state.num_bytes for model in KNOWN_MODELS if model.state}
    assert states["Qwen3-Coder-Next"] == 36 * (2 * 3 * 8192 + 4 * 32 * 128 * 128) == 77_266_944
    assert states["LFM2-8B-A1B"] == 147_456


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.title)
def test_families_are_grouped_by_their_caches(group: Group) -> None:
    """Of the models only the structure is made; nothing is computed."""
    for family in group.families:
        if family.file in NEEDS_A_PACKAGE:
            continue
        model_class, args_class = mlx_lm.utils._get_classes(family.full_config)
        model = model_class(args_class.from_dict(family.full_config))
        assert {type(cache).__name__ for cache in parts(make_prompt_cache(model))} <= group.caches, (
            family.name
        )


def parts(caches: Any) -> Iterator[Any]:
    """Yield caches and, of lists of caches, the parts as well."""
    for cache in caches:
        yield cache
        yield from parts(getattr(cache, "caches", ()))
