"""Makes a trace of recorded sessions: texts in place of block hashes, as long as the recorded prompts were.

A block's text depends on its hash alone, so that prompts share what they shared when they were recorded. What
a request of a session adds is sent behind the answers that the server really gave; a prompt that is no
continuation of the one before begins a new history.
"""

import random
from collections import abc
from dataclasses import dataclass
from itertools import takewhile

from .filler_words import words
from .trace import SessionPlan, Trace, Turn
from .trace_file import RecordedCall, RecordedSession


@dataclass(frozen=True, slots=True)
class ReplayRules:
    """How recorded numbers become texts and times.

    token_chars: characters of a token. scale: factor of all lengths. gap_cap_s: most seconds of an idle time.
    """

    token_chars: float
    scale: float = 1.0
    gap_cap_s: float = 10.0


def make_recorded_trace(sessions: abc.Sequence[RecordedSession], rules: ReplayRules) -> Trace:
    """Return the trace of recorded sessions. Long times between their starts are cut."""
    starts = _capped(sorted({session.start_s for session in sessions}), rules.gap_cap_s)
    plans = [
        SessionPlan(starts[session.start_s], _Writer(session, number, rules).session())
        for number, session in enumerate(sessions)
    ]
    return Trace((), "", tuple(plans), output_tokens=1)


def _capped(starts: abc.Sequence[float], cap_s: float) -> dict[float, float]:
    """Return the new start of each session, by its recorded one."""
    new, now_s = {}, 0.0
    for before_s, start_s in zip([starts[0], *starts], starts, strict=False):
        now_s += min(cap_s, start_s - before_s)
        new[start_s] = now_s
    return new


class _Writer:
    """Writes one session's turns."""

    def __init__(self, session: RecordedSession, number: int, rules: ReplayRules) -> None:
        self._session = session
        self._rules = rules
        self._own = random.Random(f"recorded session {number}")  # for text that no hash names

    def session(self) -> tuple[Turn, ...]:
        *before, last = self._turns(self._session.calls)
        beside = tuple(self._turns(calls) for calls in self._session.left_behind)
        return (
            *before,
            Turn(last.text, last.gap_s, None, beside, last.awaited, last.output_tokens, last.restarts),
        )

    def _turns(self, calls: abc.Sequence[RecordedCall]) -> tuple[Turn, ...]:
        turns = []
        for before, call in zip([None, *calls], calls, strict=False):
            text, restarts = self._text(before, call)
            turns.append(
                Turn(
                    text,
                    min(call.gap_s, self._rules.gap_cap_s),
                    awaited=tuple(self._turns(agent) for agent in call.subagents),
                    output_tokens=max(1, round(call.output_tokens * self._rules.scale)),
                    restarts=restarts,
                )
            )
        return tuple(turns)

    def _text(self, before: RecordedCall | None, call: RecordedCall) -> tuple[str, bool]:
        """Return the text that a request appends, and whether it begins a new history."""
        if before is None or not self._session.has_whole_prompts:
            return self._blocks_text(call.blocks, call.input_tokens), False
        pairs = zip(before.blocks, call.blocks, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        new = call.input_tokens - before.input_tokens - before.output_tokens
        # The last block of a prompt may have been filled up since.
        if shared < len(before.blocks) - 1 or call.input_tokens <= before.input_tokens:
            return self._blocks_text(call.blocks, call.input_tokens), True
        behind = call.input_tokens - shared * self._session.block_tokens
        text = self._blocks_text(call.blocks[shared:], behind)
        return text[-self._chars(max(1, new)) :], False

    def _blocks_text(self, blocks: abc.Sequence[int], tokens: int) -> str:
        size = self._chars(self._session.block_tokens)
        seeds = [f"{self._session.scope} block {block}" for block in blocks]
        named = "".join(words(random.Random(seed), size) for seed in seeds)
        wanted = self._chars(tokens)
        return named[:wanted] + words(self._own, max(0, wanted - len(named)))

    def _chars(self, tokens: int) -> int:
        return max(1, round(tokens * self._rules.scale * self._rules.token_chars))
