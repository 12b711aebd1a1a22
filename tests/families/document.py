"""Writes docs/models.md from the table of families."""

from collections.abc import Iterable
from textwrap import fill

from .family import Family, Group
from .known_models import HALF, KNOWN_MODELS, KnownModel
from .refusals import JUDGED_WHOLE, NEEDS_METAL, REFUSALS
from .table import FAMILIES, GROUPS

HEAD = """\
# Models

Which models Pensieve serves, by the model files of mlx-lm. `scripts/docs.py` writes this page from the table
of `tests/families/`, whose tests run a tiny random model of every row: what is served answers token for token
as on mlx-lm's own caches (cold, from the prefix cache, in a batch and in slices, with NumPy's attention and
with plain MLX's), and what is refused is refused in one line. A folder's `model_type` says which file runs
it; mlx-lm renames some types (mistral to llama, minimax_m2 to minimax). Behind a colon stands a variant.
"""

KNOWN = """\
## Models that people run

*Calls*: the format in which the model's usual template writes tool calls; where the template knows none,
Pensieve explains one to the model. *KV a token* and *state a sequence*: in 16 bits, recurrent states in
float32, from the published configurations. A state is kept for every running sequence and for every place
where prompts may continue.
"""

FAMILIES_HEAD = """\
## All families
"""

WIDTH = 110


def render() -> str:
    """Return the text of docs/models.md."""
    files = {family.file for family in FAMILIES.values()}
    served = sum(any(is_served(family) for family in rows_of(file)) for file in files)
    counts = f"{served} of mlx-lm's {len(files)} model files are served.\n"
    sections = [HEAD, counts, KNOWN, known_table(KNOWN_MODELS), FAMILIES_HEAD, *map(section, GROUPS)]
    return "\n".join(sections)


def rows_of(file: str) -> list[Family]:
    """Return the rows of a model file."""
    return [family for family in FAMILIES.values() if family.file == file]


def is_served(family: Family) -> bool:
    """Whether a family's models are served."""
    return family.name not in REFUSALS


def known_table(models: Iterable[KnownModel]) -> str:
    """Return the table of models that people run."""
    rows = [
        "| model | runs as | calls | thinks | KV a token | state a sequence | |",
        "| --- " * 4 + "| --: | --: | --- |",
    ]
    for model in models:
        kv = f"{model.kv_numbers * HALF:,} B" if model.kv_numbers else ""
        state = f"{model.state.num_bytes / 1e6:,.2f} MB" if model.state else ""
        cells = [model.name, model.family, model.calls or "none", "yes" if model.thinks else "no", kv, state]
        rows.append("| " + " | ".join([*cells, verdict(FAMILIES[model.family])]) + " |")
    return "\n".join(rows) + "\n"


def verdict(family: Family) -> str:
    """Return whether a family's models are served, and why not."""
    if not is_served(family):
        return f"refused: {REFUSALS[family.name].why}"
    if family.name in JUDGED_WHOLE:
        return f"served; {JUDGED_WHOLE[family.name]}"
    return "served, on Metal only" if family.name in NEEDS_METAL else "served"


def section(group: Group) -> str:
    """Return the section of a group: who is served, and a list of who is not."""
    rows = sorted(group.families, key=lambda family: family.name.lower())
    lines = [f"### {group.title}\n", fill(group.explanation, WIDTH) + "\n"]
    if served := [family.name for family in rows if verdict(family) == "served"]:
        lines.append(fill(f"Served: {', '.join(served)}.", WIDTH) + "\n")
    if others := [f"* {family.name}: {verdict(family)}" for family in rows if verdict(family) != "served"]:
        lines.append("\n".join(others) + "\n")
    return "\n".join(lines)
