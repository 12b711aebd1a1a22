"""A scripted engine for clients whose requests are not known beforehand: words in a prompt cue answers."""

from collections.abc import Mapping
from typing import Any

from pensieve.scheduler.sequence import Request

from ..fakes import Script, ScriptedScheduler, ScriptedTokenStream


class CuedModel(ScriptedScheduler):
    """Answers the last of the words that it knows in a prompt.

    answers: the text of an answer, as the model writes it, by its cue.
    """

    def __init__(self, tokenizer: Any, answers: Mapping[str, str]) -> None:
        super().__init__()
        self.prompts: list[str] = []
        self._tokenizer = tokenizer
        self._answers = answers

    def submit(self, request: Request) -> ScriptedTokenStream:
        prompt = self._tokenizer.decode(request.prompt)
        self.prompts.append(prompt)
        answer = self._answers[max(self._answers, key=prompt.rfind)]
        tokens = self._tokenizer.encode(answer, add_special_tokens=False)
        self.play(Script([tokens[i : i + 8] for i in range(0, len(tokens), 8)], delay_s=0.01))
        return super().submit(request)
