"""The cost of keeping tool calls to their schemas: compiling, a mask, a token, and sampling with masks.

    python -m pensieve.bench.micro.mask_cost

The tools have the shape of Claude Code's. A call is written a token at a time, and a mask is computed for
each token; a server that is one step ahead needs it only after a refused token. Vocabularies: random words.
"""

import argparse
import json
import random
import statistics
import time
from collections import abc
from collections.abc import Callable

import mlx.core as mx

from pensieve.api.formats.tag_follower import AnswerTags
from pensieve.api.formats.tool_calls.plain_format import plain_format
from pensieve.api.grammar.answer_constraint import AnswerConstraint, ConstraintSpec
from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.grammar.vocabulary import Vocabulary, make_vocabulary
from pensieve.api.schema import Tool
from pensieve.engine.sampler import sample
from pensieve.engine.step import DecodeRow, SamplingParams

PUNCTUATION = (
    '"',
    '":',
    '": "',
    '",',
    '", "',
    '"}',
    '"}}',
    "{",
    '{"',
    " {",
    "\n",
    "\\n",
    "/",
    " /",
    "()",
    "_",
)
NAMES = ("command", "file_path", "old_string", "new_string", "pattern", "description", "timeout", "limit")


def words(rng: random.Random, count: int) -> list[bytes]:
    """Make different words of two to nine letters, half of them after a space."""
    found: dict[bytes, None] = {}
    while len(found) < count:
        word = "".join(rng.choice("etaoinshrdlucmfwypvbgkqjxz") for _ in range(rng.randint(2, 9)))
        found[(" " * rng.randrange(2) + word).encode()] = None
    return list(found)


def make(size: int, rng: random.Random) -> Vocabulary:
    """Make a vocabulary of `size` tokens."""
    bytes_of = [bytes([byte]) for byte in range(256)] + [b"<end>"]
    bytes_of += [text.encode() for text in PUNCTUATION if len(text) > 1]
    bytes_of += words(rng, size - len(bytes_of))
    vocabulary = make_vocabulary(bytes_of, {"<end>": 256}, {256})
    assert vocabulary is not None
    return vocabulary


def tools(count: int) -> tuple[Tool, ...]:
    """Make tools with strings, a number, a flag and a list of objects."""
    properties = {name: {"type": "string", "description": "x" * 200} for name in NAMES[:6]}
    items = {
        "type": "object",
        "properties": {"status": {"enum": ["pending", "completed"]}},
        "required": ["status"],
    }
    properties |= {"timeout": {"type": "number"}, "todos": {"type": "array", "items": items}}  # type: ignore[dict-item]
    schema = {
        "type": "object",
        "properties": properties,
        "required": ["command"],
        "additionalProperties": False,
    }
    return tuple(Tool(name=f"tool_{i}", input_schema=schema) for i in range(count))


def call(rng: random.Random) -> str:
    """Write one call, with a text of a few hundred words in it."""
    text = " ".join(word.decode().strip() for word in words(rng, 300))
    arguments = {"command": f'echo "{text}"\n', "timeout": 30.5, "todos": [{"status": "pending"}]}
    return plain_format().start + json.dumps({"name": "tool_3", "arguments": arguments}) + plain_format().end


def cut(text: bytes, vocabulary: Vocabulary) -> list[int]:
    """Cut a text into tokens, the longest first."""
    known = {token: i for i, token in enumerate(vocabulary.bytes_of)}
    tokens, place = [], 0
    while place < len(text):
        size = next(size for size in range(10, 0, -1) if text[place : place + size] in known)
        tokens.append(known[text[place : place + size]])
        place += size
    return tokens


def timed(function: Callable[..., object], *arguments: object) -> float:
    """Return the milliseconds a call takes."""
    started = time.perf_counter()
    function(*arguments)
    return 1000 * (time.perf_counter() - started)


def row(name: str, times_ms: abc.Sequence[float]) -> None:
    """Print the median, the 99th percentile and the worst."""
    ordered = sorted(times_ms)
    worst = (statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1])
    print(f"  {name:<38}" + "".join(f"{value:>10.3f}" for value in worst))


def measure(size: int, num_tools: int) -> None:
    """Print a table for one size of vocabulary."""
    rng = random.Random(size)
    vocabulary, wanted = make(size, rng), GrammarKey(tools(num_tools), plain_format(), None)
    grammars = GrammarCache(vocabulary)
    print(f"{size:,} tokens, {num_tools} tools; milliseconds: median, 99 %, worst")
    row("compile all tools", [timed(lambda: grammars.compile(wanted)) for _ in range(5)])
    grammar = grammars.compile(wanted)
    tags = AnswerTags([plain_format().start.encode()], plain_format().end.encode())
    masks, accepts = [], []
    for _ in range(10):
        constraint = AnswerConstraint(ConstraintSpec(vocabulary, grammar, tags=tags))
        for token in cut(call(rng).encode(), vocabulary):
            masks.append(timed(constraint.mask))
            accepts.append(timed(constraint.accept, token))
    row("a token's mask, in a call", masks)
    row("a token accepted, in a call", accepts)
    free = AnswerConstraint(ConstraintSpec(vocabulary, grammar, tags=tags))
    row(
        "a token accepted, in free text",
        [timed(lambda: free.accept(rng.randrange(300, size))) for _ in range(5000)],
    )
    for num_masked in (0, 1, 16):
        row(f"sample 16 rows, {num_masked} with masks", sampling_ms(size, num_masked, rng))


def sampling_ms(size: int, num_masked: int, rng: random.Random) -> list[float]:
    """Time the sampler with masks for some rows of sixteen."""
    allowed = bytes(rng.randrange(256) for _ in range(-(-size // 8)))
    batch = [
        DecodeRow(
            i, 0, 7, ((0, 1),), SamplingParams(temperature=1.0, seed=i), allowed if i < num_masked else None
        )
        for i in range(16)
    ]
    logits = mx.random.normal((16, size))
    mx.eval(logits, sample(logits, batch))
    return [timed(lambda: mx.eval(sample(logits, batch))) for _ in range(20)]


def main() -> None:
    """Measure for two sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[8_000, 150_000])
    parser.add_argument("--tools", type=int, default=16)
    options = parser.parse_args()
    for size in options.sizes:
        measure(size, options.tools)


if __name__ == "__main__":
    main()
