"""A model of experts with all that its passes replace on CUDA, the kernels' text run in C++."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import qwen3_moe
from mlx_lm.models.cache import make_prompt_cache

from pensieve.engine import find_functions as functions
from pensieve.engine.experts import expert_pairs, expert_products, switch_forms

from ..attention.compiled import needs_compiler
from ..attention.typed_kernels import typed_launcher
from ..recurrent.token_loops import distance

SIZES: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "rms_norm_eps": 1e-6,
    "vocab_size": 99,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
    "max_position_embeddings": 999,
}


@needs_compiler
def test_prompts_and_decoded_tokens_get_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 24 and 14 pairs are many, of 4 few."""
    monkeypatch.setattr(expert_products, "DTYPES", (mx.float32,))
    for module in (expert_pairs, switch_forms):
        monkeypatch.setattr(module, "MAX_PAIRS", 8)
    monkeypatch.setattr(functions, "find_kernels", lambda: SimpleNamespace(launcher=typed_launcher))
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    model = qwen3_moe.Model(qwen3_moe.ModelArgs(**SIZES))
    found = functions.find_functions(model, on_host=False)
    assert {each.owner.__name__ for each in found.replacements} >= {"SwitchGLU", "Qwen3MoeSparseMoeBlock"}
    tokens = mx.array(np.random.default_rng(0).integers(0, 99, (2, 20)))

    def run() -> mx.array:
        caches = make_prompt_cache(model)
        slices = [model(tokens[:, first:end], cache=caches) for first, end in [(0, 12), (12, 19), (19, 20)]]
        return mx.concatenate(slices, axis=1)

    expected = run()
    with found:
        assert distance(run(), expected) < 1e-5
