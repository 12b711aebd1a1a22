"""The gated delta rule in chunks, in NumPy and in MLX, against mlx-lm's loop over tokens."""

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
import pytest

from pensieve.engine.recurrent import delta_rule
from pensieve.engine.recurrent.delta_rule import DeltaInputs
from pensieve.engine.recurrent.host_recurrence import HostRecurrence, TokenInputs

from ...budget import trials
from .token_loops import DeltaCase, Floats, distance

ROUNDING = 5e-5
"""Of float32, relative to the largest number; 2e-5 was seen, with equal keys that are never forgotten."""


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    mx.disable_compile()
    yield
    mx.enable_compile()


def in_numpy(case: DeltaCase) -> tuple[Floats, Floats]:
    recurrence, state = HostRecurrence(num_threads=2), case.state.copy()
    outs = [
        recurrence.run(TokenInputs(*row), after)
        for *row, after in zip(
            case.queries, case.keys, case.values, case.log_decays, case.betas, state, strict=True
        )
    ]
    return np.stack(outs), state


def in_mlx(case: DeltaCase) -> tuple[Floats, Floats]:
    arrays = (case.queries, case.keys, case.values, case.log_decays, case.betas, case.state)
    *inputs, state = (mx.array(array) for array in arrays)
    out, after = delta_rule.run(DeltaInputs(*inputs), state)
    return np.array(out), np.array(after)


FORMS: dict[str, Callable[[DeltaCase], tuple[Floats, Floats]]] = {"numpy": in_numpy, "mlx": in_mlx}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by_element", [False, True], ids=["a gate a head", "a gate an element"])
def test_chunks_compute_what_tokens_one_by_one_compute(form: str, by_element: bool) -> None:
    rng = np.random.default_rng(7)
    for seed in range(trials(6, 30)):
        key_heads, group = int(rng.integers(1, 4)), 1 if by_element else int(rng.integers(1, 4))
        dims = (int(rng.choice([16, 24, 64])), int(rng.choice([16, 40])))
        tokens = int(rng.choice([1, 2, 7, 31, 32, 33, 64, 65, 150]))
        shape = (int(rng.integers(1, 3)), tokens, key_heads, key_heads * group, *dims)
        case = DeltaCase(seed, shape, by_element, repeats_keys=seed % 3 == 0)
        expected = case.loop()
        for found, right in zip(FORMS[form](case), expected, strict=True):
            assert distance(found, right) < ROUNDING, f"seed {seed}, {shape}"


@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_cut_anywhere_leaves_the_same_state(form: str) -> None:
    whole = DeltaCase(3, (1, 200, 2, 4, 32, 32), by_element=False)
    out, state = FORMS[form](whole)
    parts, before = [], whole.state
    for first, end in [(0, 1), (1, 50), (50, 137), (137, 200)]:
        part = DeltaCase(3, (1, 200, 2, 4, 32, 32), by_element=False)
        for name in ("queries", "keys", "values", "log_decays", "betas"):
            setattr(part, name, getattr(whole, name)[:, first:end])
        part.state = before
        read, before = FORMS[form](part)
        parts.append(read)
    assert distance(np.concatenate(parts, axis=1), out) < ROUNDING
    assert distance(before, state) < ROUNDING


@pytest.mark.parametrize("form", FORMS)
def test_equal_keys_that_are_never_forgotten_do_not_blow_up(form: str) -> None:
    """Powers of the whole chunk's triangle would: their terms grow as binomial coefficients, and cancel."""
    case = DeltaCase(1, (1, 128, 1, 1, 16, 16), by_element=False, repeats_keys=True)
    case.betas[:], case.log_decays[:] = 1, 0
    expected = case.loop()
    for found, right in zip(FORMS[form](case), expected, strict=True):
        assert distance(found, right) < ROUNDING


def test_segments_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_rule, "SEGMENT", 64)
    case = DeltaCase(5, (2, 150, 2, 2, 16, 16), by_element=False)
    for found, right in zip(in_mlx(case), case.loop(), strict=True):
        assert distance(found, right) < ROUNDING


def test_half_precision_is_computed_in_float32() -> None:
    case = DeltaCase(2, (1, 100, 2, 4, 32, 32), by_element=False)
    for name in ("queries", "keys", "values"):
        rounded = mx.array(getattr(case, name)).astype(mx.bfloat16)
        setattr(case, name, np.array(rounded.astype(mx.float32)))
    arrays = (case.queries, case.keys, case.values)
    queries, keys, values = (mx.array(array).astype(mx.bfloat16) for array in arrays)
    inputs = DeltaInputs(queries, keys, values, mx.array(case.log_decays), mx.array(case.betas))
    found = delta_rule.run(inputs, mx.array(case.state))
    assert all(array.dtype == mx.float32 for array in found)
    for array, right in zip(found, case.loop(), strict=True):
        assert distance(array, right) < ROUNDING
