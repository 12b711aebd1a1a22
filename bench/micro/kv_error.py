"""The cost of quantised KV in precision: logits with 8 and 4 bits of KV beside those with the model's type.

    python -m pensieve.bench.micro.kv_error [FOLDER] [--text FILE] [--tokens N] [--dtype TYPE] [--beside TYPE]

The model reads the same tokens each time (teacher-forced), in one forward pass on mlx-lm's caches, whose keys
and values are quantised as the pools quantise them. The text is conversations of the demo model's kind in the
model's own chat template, of which only the assistant's tokens count, or a file. `typical` is the root mean
square over all logits; `divergence` is the mean of Kullback and Leibler's from the exact probabilities, in
nats; `same token` is the share of positions with the same most likely next token. Runs from a clone: it draws
on scripts/demo_model. `kv_candidates` compares codings that the server does not have.
"""

import argparse
from collections.abc import Callable, Iterator
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
from .scored_text import ScoredText, all_scored, conversation

CHUNK = 256
"""Tokens of a forward pass, few because the logits of many positions take memory."""


@dataclass(frozen=True)
class KVPrecision:
    """A model with one precision of KV."""

    name: str
    size: str  # of a token's KV, or of an element of it
    model: Any
    make_caches: Callable[[], list[Any]]


@dataclass
class Error:
    """The distance of logits to those with KV in the model's own type."""

    largest: float = 0.0
    sum_of_squares: float = 0.0
    num_logits: int = 0
    num_positions: int = 0  # whose next token counts
    num_same: int = 0  # with the same most likely token
    num_right: int = 0  # with the next token as the most likely
    surprise: float = 0.0  # sum of the next tokens' negative log-probabilities
    divergence: float = 0.0  # sum of Kullback and Leibler's, from the exact probabilities

    def add(self, logits: Any, exact: Any, targets: Any) -> None:
        """Add some positions' logits, (positions, vocab), beside exact ones; `targets`: see ScoredText."""
        places = np.flatnonzero(targets >= 0)
        if not len(places):
            return
        logits, exact, wanted = logits[places].astype(np.float64), exact[places], targets[places]
        difference, chosen = logits - exact, logits.argmax(-1)
        self.largest = max(self.largest, float(np.abs(difference).max()))
        self.sum_of_squares += float((difference**2).sum())
        self.num_logits += difference.size
        self.num_positions += len(places)
        self.num_same += int((chosen == exact.argmax(-1)).sum())
        self.num_right += int((chosen == wanted).sum())
        logs, exact_logs = log_probabilities(logits), log_probabilities(exact.astype(np.float64))
        self.surprise -= float(logs[np.arange(len(places)), wanted].sum())
        self.divergence += float((np.exp(exact_logs) * (exact_logs - logs)).sum())

    @property
    def perplexity(self) -> float:
        """Of the text's tokens that count."""
        return float(np.exp(self.surprise / self.num_positions))

    @property
    def typical(self) -> float:
        """Root of the mean square."""
        return float((self.sum_of_squares / self.num_logits) ** 0.5)


def log_probabilities(logits: Any) -> Any:
    """Return the logarithms of the probabilities that logits, (positions, vocab), stand for."""
    below = logits - logits.max(-1, keepdims=True)
    return below - np.log(np.exp(below).sum(-1, keepdims=True))


def served(name: str, model: Any, kv_bits: int) -> KVPrecision:
    """Return a precision of KV that the server has."""
    paged = probe(model, kv_bits)
    return KVPrecision(name, f"{paged.kv_bytes_per_token:,}", model, lambda: reference_caches(paged))


def logits_in_chunks(run: KVPrecision, tokens: list[int]) -> Iterator[Any]:
    """Yield the logits of all positions, (up to CHUNK, vocab) at a time."""
    caches = run.make_caches()
    for start in range(0, len(tokens), CHUNK):
        logits = run.model(mx.array([tokens[start : start + CHUNK]]), cache=caches)[0]
        yield np.array(logits.astype(mx.float32))


def compare(runs: list[KVPrecision], text: ScoredText) -> list[Error]:
    """Return each precision's error beside the first one's logits."""
    errors = [Error() for _ in runs]
    targets, start = text.targets(), 0
    for parts in zip(*(logits_in_chunks(run, text.ids) for run in runs), strict=True):
        wanted = targets[start : start + len(parts[0])]
        for error, logits in zip(errors, parts, strict=True):
            error.add(logits, parts[0], wanted)
        start += len(wanted)
    return errors


def describe(error: Error) -> str:
    """Return the cells of a row."""
    agree = f"{100 * error.num_same / error.num_positions:.2f} %"
    divergence = f"{error.divergence / error.num_positions:.4f}"
    return f"{error.largest:.2f} | {error.typical:.3f} | {divergence} | {agree} | {error.perplexity:.3f}"


def print_head(size: str) -> None:
    """Print the table's first lines. size: what its second column counts."""
    print(f"| KV | {size} | largest difference of a logit | typical | divergence | same token | perplexity |")
    print("| --- " + "| --: " * 6 + "|")


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
        text = conversation(tokenizer, options.tokens)
    else:
        text = all_scored(tokenizer.encode(options.text.read_text(encoding="utf-8"))[: options.tokens])
    own = str(probe(model, UNQUANTISED).layers[0].shape.dtype).removeprefix("mlx.core.")
    kinds = {own: UNQUANTISED, "8 bits": 8, "4 bits": 4}
    runs = [served(name, model, kv_bits) for name, kv_bits in kinds.items()]
    if options.beside:
        other = load(options.model, options.beside)[0]
        runs.append(served(f"({options.beside}, the whole model)", other, UNQUANTISED))
    print(f"{options.model.resolve().name}: {len(text.ids)} tokens")
    print_head("bytes a token")
    for run, error in zip(runs, compare(runs, text), strict=True):
        print(f"| {run.name} | {run.size} | {describe(error)} |")


if __name__ == "__main__":
    main()
