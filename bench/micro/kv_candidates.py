"""Codings of keys and values in four bits and less, beside those that the server has.

    python -m pensieve.bench.micro.kv_candidates [--tokens N] [--only WORD ...] [--needles N ...]

The demo model in float32, as in `kv_error`: as it is, and with outliers planted that leave its function as it
was (planted_outliers.py), channels of the keys ten times and of the values four times as large, or a mean of
ten deviations in four channels of the keys. An element's bits count scales and offsets in 16 bits. `k3 v2`: 3
bits for a code of the keys, 2 for one of the values. With `--needles`: the share of the needles' tokens that
are found in texts of so many tokens, in place of the errors.
"""

import argparse
from collections import abc
from dataclasses import replace
from typing import Any

from ...scripts.demo_model import MODEL_FOLDER
from .coded_cache import BLOCK, CodedCache, KeyFrame, KVCoding
from .kv_codings import Affine, ByChannel, Coding, Exact, Fitted, Rotated, Served, Sketched, Symmetric
from .kv_error import KVPrecision, compare, describe, load, print_head
from .planted_outliers import key_frames, scale_channels
from .scored_text import conversation, needles

HEAD_DIM = 64  # of the demo model
CALIBRATION_TOKENS = 1024
NEEDLES = 24
ALL: dict[str, Any] = {
    "first_in_full": 1,
    "newest_in_full": 1,
    "are_keys_centred": True,
    "are_keys_balanced": True,
}
"""What spares keys, and leaves cached prefixes usable: a query's own block is never one of them."""
CONDITIONS = ("as it is", "large channels", "large means")


def both(coding: Coding, **options: Any) -> KVCoding:
    """Return one coding for keys and values."""
    return KVCoding(coding, coding, **options)


def candidates() -> dict[str, KVCoding]:
    """Return all codings that are compared, by name; the first loses nothing."""
    found = {
        "16 bits": both(Exact()),
        "8 as served": both(Served(8)),
        "4 as served": both(Served(4)),
        "4 as served, rotated": both(Rotated(Served(4))),
        "4 fitted, a scale in 64, rotated": both(Rotated(Fitted(4, 64))),
        "4 rotated, with all": both(Rotated(Fitted(4, 64)), **ALL),
    }
    for bits in (3, 2):
        formats: dict[str, Coding] = {}
        for group in (32, 64):
            formats[f"offset and scale in {group}"] = Affine(bits, group)
            formats[f"a scale in {group}"] = Symmetric(bits, group)
            formats[f"fitted, a scale in {group}"] = Fitted(bits, group)
        for name, coding in formats.items():
            found[f"{bits} {name}"] = both(coding)
            found[f"{bits} {name}, rotated"] = both(Rotated(coding))
        found |= variants(bits)
    return found | mixtures()


def variants(bits: int) -> dict[str, KVCoding]:
    """Return what else is tried beside the fitted levels that are rotated, and with them."""
    fitted = Rotated(Fitted(bits, 64))

    def by_channel(keys: ByChannel, values: Coding) -> KVCoding:
        """Keys of a block are coded when it is full, so that queries see their own in full."""
        return KVCoding(keys, values, newest_in_full=keys.tokens // BLOCK)

    return {
        f"{bits} fitted, a scale's byte in 32, rotated": both(Rotated(Fitted(bits, 32, scale_bits=8))),
        f"{bits} fitted, rotated in blocks of 32": both(Rotated(Fitted(bits, 64), 32)),
        f"{bits} fitted, evenly spaced, rotated": both(Rotated(Fitted(bits, 64, are_even=True))),
        f"{bits} fitted, scale by deviation, rotated": both(Rotated(Fitted(bits, 64, fit="deviation"))),
        f"{bits} fitted, unbiased keys, rotated": KVCoding(Rotated(Fitted(bits, 64, fit="unbiased")), fitted),
        f"{bits} with a bit's sketch of the keys": KVCoding(Rotated(Sketched(bits)), fitted),
        f"{bits} keys by channel in 32": by_channel(ByChannel(bits, 32), Affine(bits, 32)),
        f"{bits} keys by channel in 32, values fitted": by_channel(ByChannel(bits, 32), fitted),
        f"{bits} keys by channel in 64, values fitted": by_channel(ByChannel(bits, 64), fitted),
        f"{bits} keys by channel in 32, in bytes, values fitted": by_channel(ByChannel(bits, 32, 8), fitted),
        f"{bits} rotated, first block in full": both(fitted, first_in_full=1),
        f"{bits} rotated, own block in full": both(fitted, newest_in_full=1),
        f"{bits} rotated, first and own block in full": both(fitted, first_in_full=1, newest_in_full=1),
        f"{bits} rotated, first and newest 2 in full": both(fitted, first_in_full=1, newest_in_full=2),
        f"{bits} rotated, first and newest 4 in full": both(fitted, first_in_full=1, newest_in_full=4),
        f"{bits} rotated, centred": both(fitted, are_keys_centred=True),
        f"{bits} rotated, balanced": both(fitted, are_keys_balanced=True),
        f"{bits} rotated, centred and balanced": both(fitted, are_keys_centred=True, are_keys_balanced=True),
        f"{bits} rotated, with all": both(fitted, **ALL),
    }


def mixtures() -> dict[str, KVCoding]:
    """Return codings whose keys are finer than the values, or the other way round."""
    found = {}
    for keys, values in ((4, 3), (4, 2), (3, 2), (3, 4), (2, 3)):
        pair = KVCoding(Rotated(Fitted(keys, 64)), Rotated(Fitted(values, 64)))
        found[f"k{keys} v{values} fitted, rotated"] = pair
        found[f"k{keys} v{values} fitted, rotated, with all"] = replace(pair, **ALL)
    return found


def make_runs(model: Any, frames: list[KeyFrame], names: abc.Iterable[str]) -> list[KVPrecision]:
    """Return a run of each coding."""
    known = candidates()

    def run(name: str) -> KVPrecision:
        coding = known[name]
        size = f"{coding.bits_per_element(HEAD_DIM):.2f}"
        return KVPrecision(name, size, model, lambda: [CodedCache(coding, frame) for frame in frames])

    return [run(name) for name in names]


def parse() -> argparse.Namespace:
    """Read the command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--needles", type=int, nargs="*", default=[], help="lengths of the texts")
    parser.add_argument("--only", nargs="*", default=[], help="codings whose names begin with one of these")
    parser.add_argument("--conditions", nargs="*", default=CONDITIONS, choices=CONDITIONS)
    return parser.parse_args()


def main() -> None:
    """Print a table for each condition."""
    options = parse()
    exact, *others = candidates()
    only = tuple(options.only) or ("",)
    names = [exact, *(name for name in others if name.startswith(only))]
    for condition in options.conditions:
        model, tokenizer = load(MODEL_FOLDER, "float32")
        if condition == "large channels":
            scale_channels(model)
        whole = conversation(tokenizer, options.tokens + CALIBRATION_TOKENS)
        text, calibration = whole.parted(options.tokens)
        frames = key_frames(model, calibration.ids, with_means=condition == "large means")
        runs = make_runs(model, frames, names)
        print(f"\n{condition}, {options.needles or options.tokens} tokens", flush=True)
        if options.needles:
            texts = [needles(tokenizer, length, NEEDLES) for length in options.needles]
            for run in runs:
                found = [compare([run], each)[0] for each in texts]
                shares = [f"{error.num_right / error.num_positions:.3f}" for error in found]
                print(f"| {run.name} | {run.size} | " + " | ".join(shares) + " |", flush=True)
        else:
            print_head("bits an element")
            for run, error in zip(runs, compare(runs, text), strict=True):
                print(f"| {run.name} | {run.size} | {describe(error)} |", flush=True)


if __name__ == "__main__":
    main()
