"""Calls are valid by construction: a model that emits noise makes calls that conform to their schemas.

PENSIEVE_CALLS says how many calls are made; with `PENSIEVE_CALLS=1000 pytest -s` on this file it also shows
how many steps and refused samples they took.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import mlx_lm.utils
import pytest

from pensieve.api.formats.answer_format import AnswerFormat
from pensieve.api.formats.output_events import ToolCallEnd, ToolCallStart, call_input
from pensieve.api.formats.tag_follower import AnswerTags
from pensieve.api.formats.tool_calls.plain_format import plain_format
from pensieve.api.formats.tool_calls.template_tools import template_tool
from pensieve.api.grammar.answer_constraint import AnswerConstraint, ConstraintSpec
from pensieve.api.grammar.grammar_cache import GrammarCache, GrammarKey
from pensieve.api.grammar.vocabulary import Vocabulary
from pensieve.api.output.parser import OutputParser
from pensieve.api.schema import Tool
from pensieve.engine.process import EngineProcess
from pensieve.engine.step import SamplingParams
from pensieve.scheduler.config import SchedulerConfig
from pensieve.scheduler.loop import SchedulerLoop
from pensieve.scheduler.scheduler import Scheduler
from pensieve.scheduler.sequence import Request

from ...budget import trials
from ...models import build_random, write_model
from ...schemas import SCHEMAS
from ..builders import new_detokenizer, read_vocabulary

EOS = 258
NUM_CALLS = trials(6, 20, "PENSIEVE_CALLS")
TOOLS = [Tool(name=name, input_schema=schema) for name, schema in SCHEMAS.items()]
FORMAT = plain_format()
PARALLEL = trials(3, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens often end a string, so that its noise comes to an end."""
    return write_model(tmp_path_factory.mktemp("models") / "noise", vocab=512, letters='"}],:{[Ġetao1-0n')


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return mlx_lm.utils.load_tokenizer(folder, eos_token_ids=[EOS])


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Any) -> Vocabulary:
    return read_vocabulary(tokenizer, {EOS})


@pytest.fixture(params=[True, False], ids=["at once", "one step ahead"])
def engine(folder: Path, request: pytest.FixtureRequest) -> Iterator[EngineProcess]:
    with EngineProcess() as process:
        process.start(build_random, folder, 2500, request.param)
        yield process


@dataclass
class Calls:
    """Makes calls with one model and counts what becomes of them."""

    loop: SchedulerLoop
    tokenizer: Any
    vocabulary: Vocabulary
    grammars: GrammarCache
    outcomes: Counter[str] = field(default_factory=Counter)
    num_tokens: int = 0

    async def call(self, seed: int) -> None:
        """Have one of a few tools called and judge the call."""
        rng = random.Random(seed)
        tools = rng.sample(TOOLS, rng.randint(1, 5))
        grammar = await self.grammars.get(GrammarKey(tuple(tools), FORMAT, None))
        tags = AnswerTags([FORMAT.start.encode()], FORMAT.end.encode())
        forced = grammar if rng.random() < 0.8 else None
        spec = ConstraintSpec(self.vocabulary, call=grammar, tags=tags, answer=forced)
        begun = "" if forced else FORMAT.start + "{"  # in letters a tag is one when a call follows
        prompt = f"{seed}: {begun}"
        constraint = AnswerConstraint(spec).resumed(self.ids(begun))
        reading = AnswerFormat(
            tool_format=FORMAT, tools=[template_tool(tool) for tool in tools], one_call=True
        )
        parser = OutputParser(new_detokenizer(self.tokenizer), reading)
        events = parser.feed(self.ids(begun))
        sampling = SamplingParams(temperature=1.0, seed=seed)
        token_stream = self.loop.submit(
            Request(self.ids(prompt), sampling, 1500, frozenset({EOS}), constraint=constraint)
        )
        async for tokens in token_stream:
            self.num_tokens += len(tokens)
            events += parser.feed(tokens)
            if parser.done:
                token_stream.cancel()
                break
        if token_stream.finish_reason == "length":
            self.outcomes["cut off"] += 1  # in a string that it never ended
        else:
            self.judge(events + parser.finish(), tools)

    def judge(self, events: list[Any], tools: list[Tool]) -> None:
        """Hold a call against the schema of its tool."""
        start, *fragments, end = events
        assert isinstance(start, ToolCallStart), "nothing stands before a call that is forced"
        assert isinstance(end, ToolCallEnd)
        value = call_input([fragment.json for fragment in fragments])
        schema = next(tool.input_schema for tool in tools if tool.name == start.name)
        jsonschema.validate(value, schema)
        self.outcomes[start.name] += 1

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    @property
    def num_valid(self) -> int:
        return self.outcomes.total() - self.outcomes["cut off"]


async def speak(loop: SchedulerLoop, seed: int) -> list[int]:
    """Have the model write without any constraint, and without an end."""
    rng = random.Random(-seed)
    prompt = [rng.randrange(256) for _ in range(rng.randint(1, 90))]
    sampling = SamplingParams(temperature=rng.choice([0.0, 1.0]), top_k=rng.choice([0, 30]), seed=seed)
    return [token async for tokens in loop.submit(Request(prompt, sampling, 40)) for token in tokens]


def test_calls_of_a_model_that_emits_noise_are_valid(
    engine: EngineProcess, tokenizer: Any, vocabulary: Vocabulary
) -> None:
    async def run() -> None:
        loop = SchedulerLoop(engine, Scheduler(SchedulerConfig(PARALLEL + 4, step_tokens=128), 2500, 4000))
        task = asyncio.create_task(loop.run())
        calls = Calls(loop, tokenizer, vocabulary, GrammarCache(vocabulary))
        seeds = iter(range(100 * NUM_CALLS))

        async def user() -> None:
            while calls.num_valid < NUM_CALLS:
                await calls.call(next(seeds))

        async def neighbours() -> list[list[int]]:
            return [await speak(loop, seed) for seed in range(12)]

        results = await asyncio.gather(neighbours(), *(user() for _ in range(PARALLEL)))
        counters, num_cut = loop.stats().counters, calls.outcomes["cut off"]
        print(f"\n{calls.num_valid} valid calls of {len(calls.outcomes) - 1} tools, {num_cut} cut off")
        print(f"{calls.num_tokens} tokens, {counters.refused_tokens} refused, {counters.steps} steps")
        assert calls.num_valid >= NUM_CALLS
        assert len(calls.outcomes) > min(35, NUM_CALLS // 2)
        assert results[0] == [await speak(loop, seed) for seed in range(12)], "neighbours are not touched"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_the_judge_can_tell_a_call_that_is_not_valid() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads('{"a": 9, "b": 0, "c": 0, "d": 5}'), SCHEMAS["bounds"])
