"""Log-probabilities in OpenAI's form: the model's own, before temperature, filters and constraints."""

from collections.abc import Iterable
from typing import Any

from ..formats.model_format import ModelFormat
from ..formats.output_events import ScoredToken


class ChatLogprobs:
    """Log-probabilities of a chat: each token's text, bytes and likeliest alternatives."""

    def __init__(self, model_format: ModelFormat) -> None:
        self._bytes_of = model_format.token_bytes.bytes_of

    def body(self, scores: Iterable[ScoredToken]) -> dict[str, Any]:
        """Return the log-probabilities of some tokens."""
        return {"content": [self._entry(score) for score in scores], "refusal": None}

    def _entry(self, score: ScoredToken) -> dict[str, Any]:
        likeliest = [self._token(token, logprob) for token, logprob in score.top]
        return self._token(score.token, score.logprob) | {"top_logprobs": likeliest}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        content = self._bytes_of(token)
        text = content.decode("utf-8", "replace")
        return {"token": text, "logprob": finite(logprob), "bytes": list(content)}


class CompletionLogprobs:
    """Log-probabilities of a completion: parallel lists, with each token's offset in the answer's text."""

    def __init__(self, model_format: ModelFormat) -> None:
        self._bytes_of = model_format.token_bytes.bytes_of
        self._detokenizer = model_format.new_detokenizer()
        self._offset = 0

    def body(self, scores: Iterable[ScoredToken]) -> dict[str, Any]:
        """Return the log-probabilities of the next tokens; offsets continue from the last call."""
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
        """Return the token's text; where its bytes are no whole characters, their values."""
        content = self._bytes_of(token)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


Logprobs = ChatLogprobs | CompletionLogprobs


def finite(logprob: float) -> float:
    """Return a value, but at least -9999, by which OpenAI replaces minus infinity: JSON cannot write that."""
    return max(logprob, -9999.0)
