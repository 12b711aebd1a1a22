"""What the hub says of a model: its commit and its files. The answer is bounded, whoever answers.

The hub's own client reads an answer whole, whatever its size, and waits as long as a byte comes now and then.
"""

import json
import time

from huggingface_hub import ModelInfo, constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # no __all__ there
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
    validate_repo_id,
)

from .model_error import ModelError

SILENCE_S = 20.0
"""Seconds without a byte after which the hub counts as unreachable."""

MOST_S = 60.0
"""Seconds that the whole answer may take."""

MOST_BYTES = 50_000_000

MOST_FILES = 10_000
"""Files of a model; the largest models have some hundreds."""


def fetch_listing(repo: str) -> ModelInfo:
    """Ask the hub for a model's description. Raises the hub client's errors, and ModelError."""
    validate_repo_id(repo)
    # Else the hub's client fetches a list of agents, to say in all of its requests which one has started it.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    url = f"{constants.ENDPOINT}/api/models/{repo}?blobs=true"
    begun_s, content = time.monotonic(), bytearray()
    headers = build_hf_headers()
    with http_stream_backoff("GET", url, headers=headers, timeout=SILENCE_S, max_retries=0) as response:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MOST_BYTES or time.monotonic() - begun_s > MOST_S:
                raise ModelError(f"the hub's description of {repo} does not end")
    info = ModelInfo(**json.loads(content))  # type: ignore[no-untyped-call]
    if len(info.siblings or []) > MOST_FILES:
        raise ModelError(f"{repo} on the hub has more than {MOST_FILES:,} files: not a model")
    return info
