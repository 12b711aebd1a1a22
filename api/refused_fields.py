"""Fields of other servers' APIs that would change the answer and that this server cannot honour."""

from typing import Any

HARMLESS: dict[str, tuple[object, ...]] = {
    # Each with the values that change nothing, null aside.
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "mcp_servers": ([],),
    "container": (),
    # Ways to choose tokens.
    "use_beam_search": (False,),
    "typical_p": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "dynatemp_range": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "no_repeat_ngram_size": (0,),
    "guidance_scale": (1,),
    "cfg_scale": (1,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    # What the prompt or the answer is made of.
    "prompt_logprobs": (),
    "chat_template": (),
    "documents": ([],),
    "add_generation_prompt": (True,),
    "truncate_prompt_tokens": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "lora": ([], ""),
    "adapters": ([], ""),
}

PENALTIES = {"repetition_penalty": 1, "repeat_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0}
"""Each with the value that does nothing."""

PENALTY_WINDOWS = (
    "repeat_last_n",
    "repetition_context_size",
    "presence_context_size",
    "frequency_context_size",
)
"""How many tokens a penalty looks back to, in llama.cpp and mlx-lm. Here it is always the whole answer."""

NUMBERS = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "n", "min_tokens", "top_logprobs", *PENALTIES),
    *("max_tokens", "max_completion_tokens", "max_output_tokens"),
)
"""Fields in which pydantic would read `true` as 1 and "8" as 8, where the original APIs refuse them."""


def refuse_fields(body: Any) -> Any:
    """Return a request's body. Raises ValueError for a field that cannot be honoured, by its name.

    A penalty's window is refused only beside a penalty: clients send its default without one.
    """
    if isinstance(body, dict):
        for name in NUMBERS:
            if isinstance(body.get(name), bool | str):
                raise ValueError(f"{name}: must be a number")
        if not isinstance(body.get("stream"), bool | None):
            raise ValueError("stream: must be true or false")
        if any(body.get(name) not in (None, idle) for name, idle in PENALTIES.items()):
            for name in PENALTY_WINDOWS:
                if body.get(name) not in (None, -1):
                    raise ValueError(
                        f"{name} is not supported by this server: penalties count the whole answer"
                    )
        for name in HARMLESS.keys() & body.keys():
            value = body[name]
            if value is not None and value not in HARMLESS[name]:
                raise ValueError(f"{name}: {str(value)[:40]!r} is not supported by this server")
    return body
