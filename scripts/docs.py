"""Writes the documents' tables from the code: `python scripts/docs.py`, or with --check only compares.

A table stands between `<!-- NAME -->` and `<!-- end -->`; docs/models.md is written whole.
"""

import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx_lm.utils

from pensieve.api.command.command_line import BENCH_CONFIGS
from pensieve.api.command.flags import CONFIGS, flag_name
from pensieve.engine.config import EngineConfig
from pensieve.engine.loading.device import Device
from pensieve.engine.loading.lazy_model import find_facts, put_stand_ins
from pensieve.engine.loading.memory_plan import gigabytes, make_plan
from pensieve.engine.loading.model_error import ModelError
from pensieve.engine.loading.model_info import ModelInfo
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.config import SchedulerConfig
from pensieve.tests.families import document

ROOT = Path(__file__).parent.parent

# Each document with its tables.
DOCUMENTS = {
    ROOT / "README.md": ("memory",),
    ROOT / "docs" / "flags.md": ("flags",),
    ROOT / "bench" / "README.md": ("fleet",),
}

# Published models: name, config as far as it matters for sizes, and where that is from.
MODELS: list[dict[str, Any]] = json.loads((ROOT / "scripts" / "models.json").read_text(encoding="utf-8"))

BITS, GROUP = 4, 64  # of quantised weights: bits, and weights that share a scale and a bias

# GB of memory, and the share of it that macOS lets the GPU use.
MACS = [(16, 2 / 3), (32, 2 / 3), (64, 3 / 4), (128, 3 / 4)]


def flags_table(configs: Iterable[type[Any]]) -> str:
    """Return a table of all fields of the config classes, as flags."""
    rows = ["| flag | default | meaning |", "| --- | --- | --- |"]
    for config in configs:
        for field in dataclasses.fields(config):
            default = "" if field.default in (None, ()) else f"`{field.default}`"
            rows.append(f"| `{flag_name(field.name)}` | {default} | {field.metadata['help']} |")
    return "\n".join(rows)


def memory_table() -> str:
    """Return a table of how many tokens of KV, and states, each model leaves room for on each Mac."""
    macs = " | ".join(f"{size} GB Mac" for size, _ in MACS)
    rows = [
        f"| model, 4-bit | weights | KV a token | state | {macs} |",
        "| --- " + "| --: " * (3 + len(MACS)) + "|",
    ]
    for model in MODELS:
        info = describe(model)
        cells = [f"{info.weight_bytes / 1e9:.1f} GB", f"{info.kv_bytes_per_token:,} B"]
        cells.append(gigabytes(info.state_bytes) if info.state_bytes else "")
        cells += [tokens_that_fit(info, size * 2**30 * share) for size, share in MACS]
        rows.append(f"| {info.name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def describe(model: dict[str, Any]) -> ModelInfo:
    """Return the facts of a 4-bit model that the memory plan needs: mlx-lm's model tells its own sizes."""
    model_class, args_class = mlx_lm.utils._get_classes(model["config"])
    plain = model_class(args_class.from_dict(json.loads(json.dumps(model["config"]))))
    put_stand_ins(plain, "bfloat16")
    with contextlib.redirect_stdout(io.StringIO()):  # mlx-lm prints the bits of a weight
        quantised, _ = mlx_lm.utils.quantize_model(plain, {}, GROUP, BITS)
    kv_bits = EngineConfig().kv_bits
    facts = find_facts(quantised, None, kv_bits, ())
    return ModelInfo(
        name=model["name"],
        path=Path(),
        model_type=model["config"]["model_type"],
        vocab_size=facts.vocab_size,
        context_length=model["config"].get("text_config", model["config"])["max_position_embeddings"],
        weight_bytes=facts.weight_bytes,
        dtype="bfloat16",
        quantization=f"{BITS}-bit",
        num_layers=facts.num_layers,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        activation_bytes_per_token=1,
        eos_token_ids=frozenset(),
        default_sampling=SamplingParams(),
        kv_bits=kv_bits,
        state_bytes=facts.state_bytes,
        window=facts.window,
        window_bytes_per_token=facts.window_bytes_per_token,
    )


def tokens_that_fit(info: ModelInfo, available: float) -> str:
    """Return the tokens of KV beside the model's weights in `available` bytes, in thousands, and the states.

    Of windows, the number that fits beside a step's slices.

    Returns "none" where the model does not fit.
    """
    device = Device("metal", "a Mac", int(available))
    try:
        plan = make_plan(info, EngineConfig(), device, SchedulerConfig().max_batch)
    except ModelError:
        return "none"
    states = f" + {plan.num_state_slots}" if info.state_bytes else ""
    if plan.window is not None:
        left = plan.window.num_blocks - plan.window.promised_blocks
        states = f" + {plan.window.max_running + left // plan.window.state_blocks}"
    return f"{plan.num_kv_tokens // 1000:,}k{states}"


def render(text: str, names: Iterable[str]) -> str:
    """Replace the tables called `names` in a document's text."""
    for name in names:
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert end, f"there is no place for the table of {name}"
        text = before + start + make_table(name) + "\n" + end + after
    return text


def make_table(name: str) -> str:
    """Return the table called `name`."""
    if name == "memory":
        return memory_table()
    return flags_table(CONFIGS if name == "flags" else BENCH_CONFIGS)


def main() -> int:
    """Write all tables; with --check, return 1 when a document differs from the code."""
    texts = {path: render(path.read_text(encoding="utf-8"), names) for path, names in DOCUMENTS.items()}
    texts[ROOT / "docs" / "models.md"] = document.render()
    differ = False
    for path, fresh in texts.items():
        differ = differ or not path.exists() or fresh != path.read_text(encoding="utf-8")
        if "--check" not in sys.argv:
            path.write_text(fresh, encoding="utf-8")
    return int(differ and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
