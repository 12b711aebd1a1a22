"""The models on this machine: found or fetched, planned and judged before their weights are loaded."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ...engine.config import EngineConfig
from ...engine.loading.build import PlannedModel, plan_model
from ...engine.loading.hub import DEMO, cached_repos, find_local_folder, resolve
from ...engine.loading.memory_plan import gigabytes
from ...engine.loading.model_error import ModelError
from ...engine.loading.tokenizer import load_tokenizer
from ...engine.process import EngineProcess
from ...engine.ranks.rank_link import RankError
from .console import say
from .start_report import describe_plan


class LocalModel(NamedTuple):
    """A model on this machine, and whether it is served here."""

    name: str
    size: str
    verdict: str  # its context and room here, or why it is not served
    is_served: bool = False


def find_model(engine: EngineProcess, config: EngineConfig, max_batch: int) -> PlannedModel:
    """Find or fetch the model, plan its memory and print the plan.

    max_batch: sequences that are to run at once.
    A model on the hub is planned and judged before its weights are fetched. Raises ModelError, one line.
    """
    told = ""

    def plan(folder: Path) -> PlannedModel:
        nonlocal told
        planned = engine.call(plan_model, folder, config, max_batch)
        if (text := describe_plan(planned, max_batch)) != told:
            say(text)
            told = text
        return planned

    def judge(folder: Path) -> None:
        load_tokenizer(plan(folder).info)

    return plan(resolve(config.model, say, judge))


def pull(engine: EngineProcess, config: EngineConfig, max_batch: int) -> None:
    """Fetch the model that a later start will serve, and say where it lies. Raises ModelError."""
    planned = find_model(engine, config, max_batch)
    load_tokenizer(planned.info)
    say(f"folder   {planned.info.path}")


def print_models(engine: EngineProcess, config: EngineConfig, max_batch: int) -> None:
    """Print a line for each model on this machine: its size, and its context here or why it is not served."""
    names = [DEMO, *cached_repos()]
    models = [judge_model(engine, replace(config, model=name), max_batch) for name in names]
    name_width = max(len(model.name) for model in models)
    size_width = max(len(model.size) for model in models)
    for name, size, verdict, _ in models:
        say(f"{name:{name_width}}  {size:>{size_width}}  {verdict}")


def judge_model(engine: EngineProcess, config: EngineConfig, max_batch: int) -> LocalModel:
    """Judge the model that `config` names, without any download."""
    folder = find_local_folder(config.model)
    if folder is None:
        return LocalModel(config.model, "-", "not here, or not whole: `pensieve pull` fetches it")
    try:
        planned = engine.call(plan_model, folder, config, max_batch)
        load_tokenizer(planned.info)
    except (ModelError, RankError) as error:
        return LocalModel(config.model, "-", f"not served: {error}")
    memory = planned.memory
    room = f"room for {memory.num_kv_tokens:,} tokens of KV" if memory.kv_bytes else "no KV"
    verdict = f"context {memory.max_context:,}; {room}"
    return LocalModel(config.model, gigabytes(planned.info.weight_bytes), verdict, is_served=True)
