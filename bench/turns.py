"""Times the first token of a cold prompt against that of the conversation's next turn.

    python -m pensieve.bench.turns --url http://127.0.0.1:7777 --characters 10000 --repeat 5

Every repetition is a conversation of its own, so that its first turn is cold. Prints medians and ranges.
"""

import argparse
import random
import statistics
import string

from .. import DEFAULT_URL
from .client import Timing, spread, stream


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--characters", type=int, default=10_000, help="length of the first prompt")
    parser.add_argument("--new", type=int, default=250, help="characters that the second turn adds")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    pairs = [two_turns(options.url, rng, options.characters, options.new) for _ in range(options.repeat)]
    report("cold", [cold for cold, _ in pairs])
    report("next turn", [warm for _, warm in pairs])
    ratios = [cold.first_token_s / warm.first_token_s for cold, warm in pairs]
    print(f"ratio cold / next turn   {spread(ratios)}")


def two_turns(url: str, rng: random.Random, length: int, new: int) -> tuple[Timing, Timing]:
    """Play one conversation: a new prompt of `length` characters, then `new` more; return both timings."""
    messages = [{"role": "user", "content": words(rng, length)}]
    cold = stream(url, {"model": "claude-bench", "max_tokens": 8, "messages": messages})
    messages += [
        {"role": "assistant", "content": cold.text or "."},
        {"role": "user", "content": words(rng, new)},
    ]
    return cold, stream(url, {"model": "claude-bench", "max_tokens": 8, "messages": messages})


def words(rng: random.Random, length: int) -> str:
    """Draw about `length` characters of random words."""
    text = ""
    while len(text) < length:
        text += "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) + " "
    return text


def report(name: str, timings: list[Timing]) -> None:
    """Print one row: time to the first token, and tokens computed and cached."""
    fresh = statistics.median(timing.input_tokens for timing in timings)
    cached = statistics.median(timing.cached_tokens for timing in timings)
    seconds = spread([timing.first_token_s for timing in timings])
    print(f"{name:<10} TTFT {seconds} s   {fresh:.0f} tokens computed, {cached:.0f} from the cache")


if __name__ == "__main__":
    main()
