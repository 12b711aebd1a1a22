"""The cost of quantised KV in precision: logits with 8 and 4 bits of KV beside those with the model's type.

    python -m pensieve.bench.micro.kv_error [FOLDER] [--text FILE] [--tokens N] [--dtype TYPE] [--beside TYPE]

The model reads the same tokens each time (teacher-forced), in one forward pass on mlx-lm's caches, whose keys
and values are quantised as the pools quantise them. The text is conversations of the demo model's kind in the
model's own chat template, or a file. `typical` is the root mean square over all logits; `same token` is the
share of positions with the same most likely next token. Runs from a clone: it draws on scripts/demo_model.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np

from ...cache.packing import UNQUANTISED
from ...engine.attention.paged_model import probe
from ...engine.reference_caches import reference_caches
from ...scripts.demo_model import MODEL_FOLDER
from ...scripts.demo_model.corpus import standard_library, text_lines
from ...scripts.demo_model.evaluate import message
from ...scripts.demo_model.tasks import Tasks
from ...scripts.demo_model.words import Words

CHUNK = 256
"""Tokens of a forward pass, few because the logits of many positions take memory."""


@dataclass(frozen=True)
class KVPrecision:
    """A model with one precision of KV."""

    name: str
    model: Any
    kv_bits: int


@dataclass
class Error:
    """The distance of logits to those with KV in the model's own type."""

    largest: float = 0.0
    sum_of_squares: float = 0.0
    num_logits: int = 0
    num_positions: int = 0
    num_same: int = 0  # positions with the same most likely token

    def add(self, logits: Any, exact: Any) -> None:
        """Add some positions' logits, (positions, vocab), beside the exact ones."""
        difference = logits - exact
        self.largest = max(self.largest, float(np.abs(difference).max()))
        self.sum_of_squares += float((difference.astype(np.float64) ** 2).sum())
        self.num_logits += difference.size
        self.num_positions += len(difference)
        self.num_same += int((logits.argmax(-1) == exact.argmax(-1)).sum())

    @property
    def typical(self) -> float:
        """Root of the mean square."""
        return float((self.sum_of_squares / self.num_logits) ** 0.5)


def conversation(tokenizer: Any, num_tokens: int) -> list[int]:
    """Return tokens of sessions as the demo model is trained for, in the model's chat template."""
    rng = random.Random(7)
    tasks = Tasks(rng, Words(rng, text_lines(standard_library(50))))
    messages: list[Any] = []
    ids: list[int] = []
    while len(ids) < num_tokens:
        turn = tasks.turn()
        messages += [{"role": "user", "content": turn.request}, *map(message, turn.steps)]
        ids = tokenizer.apply_chat_template(messages)
    return ids[:num_tokens]


def logits_in_chunks(run: KVPrecision, tokens: list[int]) -> Iterator[Any]:
    """Yield the logits of all positions, (up to CHUNK, vocab) at a time."""
    caches = reference_caches(probe(run.model, run.kv_bits))
    for start in range(0, len(tokens), CHUNK):
        logits = run.model(mx.array([tokens[start : start + CHUNK]]), cache=caches)[0]
        yield np.array(logits.astype(mx.float32))


def compare(runs: list[KVPrecision], tokens: list[int]) -> list[Error]:
    """Return each precision's error beside the first one's logits."""
    errors = [Error() for _ in runs]
    for parts in zip(*(logits_in_chunks(run, tokens) for run in runs), strict=True):
        for error, logits in zip(errors, parts, strict=True):
            error.add(logits, parts[0])
    return errors


def describe(run: KVPrecision, error: Error) -> str:
    """Return a row of the table."""
    size = probe(run.model, run.kv_bits).kv_bytes_per_token
    agree = f"{100 * error.num_same / error.num_positions:.2f} %"
    return f"| {run.name} | {size:,} | {error.largest:.3f} | {error.typical:.4f} | {agree} |"


def parse() -> argparse.Namespace:
    """Read the command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=MODEL_FOLDER)
    parser.add_argument("--text", type=Path, help="a file to read instead of conversations")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--dtype", help="cast the model; float32 on a CPU (default: as it is)")
    parser.add_argument("--beside", metavar="TYPE", help="also the whole model in this type, to compare with")
    return parser.parse_args()


def load(folder: Path, dtype: str | None) -> tuple[Any, Any]:
    """Load a model and its tokenizer. dtype: the type to cast to; None keeps the model's own."""
    loaded: Any = mlx_lm.load(str(folder))
    if dtype:
        loaded[0].set_dtype(getattr(mx, dtype))
    return loaded[0], loaded[1]


def main() -> None:
    """Print the table."""
    options = parse()
    model, tokenizer = load(options.model, options.dtype)
    if options.text is None:
        tokens = conversation(tokenizer, options.tokens)
    else:
        tokens = tokenizer.encode(options.text.read_text(encoding="utf-8"))[: options.tokens]
    own = str(probe(model, UNQUANTISED).layers[0].shape.dtype).removeprefix("mlx.core.")
    kinds = {own: UNQUANTISED, "8 bits": 8, "4 bits": 4}
    runs = [KVPrecision(name, model, kv_bits) for name, kv_bits in kinds.items()]
    if options.beside:
        other = load(options.model, options.beside)[0]
        runs.append(KVPrecision(f"({options.beside}, the whole model)", other, UNQUANTISED))
    print(f"{options.model.resolve().name}: {len(tokens)} tokens")
    print("| KV | bytes a token | largest difference of a logit | typical | same token |")
    print("| --- | --: | --: | --: | --: |")
    for run, error in zip(runs, compare(runs, tokens), strict=True):
        print(describe(run, error))


if __name__ == "__main__":
    main()
