"""What the server says of its memory at its start."""

from pathlib import Path

from pensieve.api.command.start_report import describe_plan
from pensieve.engine.config import EngineConfig
from pensieve.engine.loading.build import PlannedModel
from pensieve.engine.loading.device import Device
from pensieve.engine.loading.memory_plan import make_plan
from pensieve.engine.loading.model_info import ModelInfo
from pensieve.engine.step import SamplingParams

MAC = Device("metal", "Apple M4", 22_900_000_000)


def report(kv_bytes: int, state_bytes: int, window_bytes: int = 0) -> list[str]:
    info = ModelInfo(
        name="hybrid",
        path=Path(),
        model_type="qwen3_5_moe",
        vocab_size=248_320,
        context_length=262_144,
        weight_bytes=19_508_787_456,
        dtype="bfloat16",
        quantization="4-bit",
        num_layers=40,
        kv_bytes_per_token=kv_bytes,
        activation_bytes_per_token=150_000,
        eos_token_ids=frozenset(),
        default_sampling=SamplingParams(),
        kv_bits=16,
        state_bytes=state_bytes,
        window=1024 if window_bytes else None,
        window_bytes_per_token=window_bytes,
    )
    memory = make_plan(info, EngineConfig(), MAC, max_batch=32)
    return describe_plan(PlannedModel(info, memory, "a BLAS"), max_batch=32).splitlines()[3:]


def test_a_recurrent_models_plan_says_how_many_states_fit() -> None:
    assert report(20_480, 64_389_120) == [
        "KV       bfloat16, 20,480 bytes a token; 65,760 tokens fit (1.3 GB)",
        "states   64 MB each, 10 fit (644 MB): 9 for 3 running sequences, 1 for checkpoints",
    ]


def test_a_model_without_attention_keeps_no_kv() -> None:
    assert report(0, 64_389_120)[0].startswith("states   64 MB each, ")


def test_a_model_without_states_keeps_none() -> None:
    (line,) = report(98_304, 0)
    assert line.startswith("KV       bfloat16, 98,304 bytes a token; ")


def test_a_plan_says_how_many_windows_fit() -> None:
    assert report(122_880, 0, window_bytes=102_400) == [
        "KV       bfloat16, 20,480 bytes a token; 41,504 tokens fit (850 MB)",
        "windows  1,024 tokens of 102,400 bytes (1.5 GB): for 6 running sequences, 5 checkpoints, "
        "3,072 tokens of slices",
    ]
