"""Sizes of the served cases: those of the figures, and small ones with the same structure."""

from dataclasses import dataclass, field
from typing import Any

TINY_PART = 100
"""What the lengths of the full sizes are divided by for a small model on a CPU."""


@dataclass(frozen=True)
class DecodeLengths:
    """A batch that decodes: the tokens that all its prompts share, and each prompt's own."""

    shared: int
    own: tuple[int, ...]

    @property
    def name(self) -> str:
        """Rows and tokens, as the table names the batch."""
        groups = {own: self.own.count(own) for own in self.own}
        parts = [
            f"{count} x ({self.shared} shared + {own})" if self.shared else f"{count} x {own}"
            for own, count in groups.items()
        ]
        return " + ".join(parts)


DECODE = (
    DecodeLengths(24_000, (2_000,) * 16),
    DecodeLengths(16_000, (4_000,) * 16),
    DecodeLengths(0, (64_000, *(4_000,) * 7)),
    DecodeLengths(0, (4_000,) * 8),
    DecodeLengths(0, (20_000,)),
    DecodeLengths(0, (20_000,) * 16),
)


@dataclass(frozen=True)
class ServedSizes:
    """Sizes of all cases, in tokens but for numbers of sessions, turns, prompts and steps; and flags."""

    shape: str = "qwen3-4b"
    sessions: int = 16
    turns: int = 3
    shared: int = 24_000
    new: int = 2_000
    answer: int = 128
    prompt: int = 24_000
    prompts: int = 5
    long: int = 60_000
    beside: int = 15  # sessions that decode while the long prompt comes
    beside_context: int = 8_000
    decode_steps: int = 64
    decode: tuple[DecodeLengths, ...] = field(default=DECODE)
    flags: tuple[str, ...] = ()  # of `pensieve serve`, beside --model and --port


def tiny() -> ServedSizes:
    """Return sizes that a CPU plays in seconds, with the same structure."""
    full = ServedSizes()
    decode = tuple(
        DecodeLengths(case.shared // TINY_PART, tuple(own // TINY_PART for own in case.own[:3]))
        for case in full.decode
    )
    return ServedSizes(
        shape="tiny",
        sessions=3,
        turns=2,
        shared=full.shared // TINY_PART,
        new=40,
        answer=6,
        prompt=full.prompt // TINY_PART,
        prompts=3,
        long=full.long // TINY_PART,
        beside=3,
        beside_context=full.beside_context // TINY_PART,
        decode_steps=4,
        decode=decode,
    )


def sizes_from(values: dict[str, Any]) -> ServedSizes:
    """Return sizes that `dataclasses.asdict` has made a dictionary of."""
    decode = tuple(DecodeLengths(case["shared"], tuple(case["own"])) for case in values["decode"])
    return ServedSizes(**values | {"decode": decode, "flags": tuple(values["flags"])})
