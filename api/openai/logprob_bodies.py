"""OpenAI's words for log-probabilities: the model's own, before temperature, filters and constraints."""

from collections.abc import Iterable
from typing import Any

from ..formats.model_format import ModelFormat
from ..formats.output_events import ScoredToken


class ChatLogprobs:
    """Those of a chat: for each token its text and bytes, and the likeliest beside it."""

    def __init__(self, model_format: ModelFormat) -> None:
        self._bytes_of = model_format.token_bytes.bytes_of

    def body(self, scores: Iterable[ScoredToken]) -> dict[str, Any]:
        """Write the scores of some tokens."""
        return {"content": [self._entry(score) for score in scores], "refusal": None}

    def _entry(self, score: ScoredToken) -> dict[str, Any]:
        likeliest = [self._token(token, logprob) for token, logprob in score.top]
        return self._token(score.token, score.logprob) | {"top_logprobs": likeliest}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        content = self._bytes_of(token)
        text = content.decode("utf-8", "replace")
        return {"token": text, "logprob": finite(logprob), "bytes": list(content)}


class CompletionLogprobs:
    """Those of a bare completion: lists side by side, and where in the text each token begins."""

    def __init__(self, model_format: ModelFormat) -> None:
        self._bytes_of = model_format.token_bytes.bytes_of
        self._detokenizer = model_format.new_detokenizer()
        self._offset = 0

    def body(self, scores: Iterable[ScoredToken]) -> dict[str, Any]:
        """Write the scores of the next tokens."""
        tokens, logprobs, likeliest, offsets = [], [], [], []
        for score in scores:
            tokens.append(self._name(score.token))
            logprobs.append(finite(score.logprob))
            likeliest.append({self._name(token): finite(logprob) for token, logprob in score.top})
            offsets.append(self._offset)
            self._offset += len(self._detokenizer.add([score.token]))
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": likeliest,
            "text_offset": offsets,
        }

    def _name(self, token: int) -> str:
        """The token's text; of bytes that are a part of a character, their values."""
        content = self._bytes_of(token)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


Logprobs = ChatLogprobs | CompletionLogprobs


def finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI's own stand-in for it."""
    return max(logprob, -9999.0)
