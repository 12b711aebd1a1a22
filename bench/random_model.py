"""Writes the random model that the comparison serves, the same bytes from the same seed, without a download.

    python -m pensieve.bench.random_model FOLDER

It has six million parameters in float32 (`random_weights.py`). Every server must generate the same number of
tokens, so the model never ends an answer: its output rows for the special tokens are zero, and of eight
thousand other logits some is always above zero. The rows of single bytes are zero too, so that answers are
ASCII and each token is text at once: no server holds half a character back.
"""

import argparse
import itertools
from pathlib import Path

from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from .filler_words import CONSONANTS, VOWELS
from .random_weights import CONFIGS, SPECIAL_TOKENS, VOCABULARY, random_weights
from .report import write_json

CHAT_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools>\\nAnswer with <tool_call>{"name": ..., "arguments": ...}</tool_call> to call one.\\n' }}
{%- if messages[0].role == 'system' %}{{- '\\n' + messages[0].content }}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role != 'system' or not loop.first %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) }}
{{- '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def write_model(folder: Path, kind: str = "attention", seed: int = 0) -> Path:
    """Write config, tokenizer and weights into `folder`, unless it holds a model; return the folder.

    kind: "attention" or "hybrid", see CONFIGS.
    """
    weights = folder / "model.safetensors"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", CONFIGS[kind])
        write_tokenizer(folder)
        save_file(random_weights(kind, seed), weights, metadata={"format": "mlx"})
    return folder


def write_tokenizer(folder: Path, vocabulary: int = VOCABULARY, max_context: int = 32_768) -> None:
    """Write a byte-level BPE tokenizer of `vocabulary` tokens.

    They are bytes, special tokens, syllables, words of two syllables, and as many words of three as fit.
    """
    ids, merges = make_vocabulary(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": max_context,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings)


def make_vocabulary(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return ids of `size` tokens, and merges.

    Words are tokens, so that an answer's text has the answer's tokens.
    """
    merges = list(itertools.product(CONSONANTS, VOWELS))
    syllables = ["".join(pair) for pair in merges]
    merges += [("Ġ", syllable) for syllable in syllables]
    merges += itertools.product([f"Ġ{syllable}" for syllable in syllables], syllables)
    words = ["Ġ" + first + second for first, second in itertools.product(syllables, syllables)]
    longer = itertools.product(words, syllables)
    single = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL_TOKENS]
    merges = list(itertools.islice(itertools.chain(merges, longer), size - len(single)))
    tokens = [*single, *("".join(merge) for merge in merges)]
    return {token: index for index, token in enumerate(tokens)}, merges


def main() -> None:
    """Write the model into the folder that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=CONFIGS, default="attention", help="kind of the model's layers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write_model(options.folder, options.model, options.seed))


if __name__ == "__main__":
    main()
