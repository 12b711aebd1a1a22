"""Settings of a fleet and its report; `pensieve bench` makes a flag of each field."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from .. import DEFAULT_URL, LOCAL_KEY

ProtocolName = Literal["anthropic", "openai"]


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """The requests of a fleet. The same values give the same requests, to the character."""

    sessions: int = field(default=8, metadata={"help": "Claude Code sessions at once"})
    turns: int = field(default=3, metadata={"help": "requests of a session, one after the other"})
    system_chars: int = field(
        default=24_000, metadata={"help": "characters of tools and system prompt, the same in all sessions"}
    )
    tools: int = field(default=12, metadata={"help": "tools among these characters"})
    turn_chars: int = field(default=2_000, metadata={"help": "new characters of each turn"})
    output_tokens: int = field(default=64, metadata={"help": "most tokens of an answer"})
    tool_gap_s: float = field(
        default=0.0, metadata={"help": "median seconds between an answer and the next turn (lognormal)"}
    )
    tool_gap_sigma: float = field(default=1.2, metadata={"help": "spread of these gaps' logarithm"})
    subagents: float = field(
        default=0.0, metadata={"help": "share of turns that start a subagent, from 0 to 1"}
    )
    subagent_turns: int = field(default=2, metadata={"help": "requests of a subagent"})
    crowd: int = field(
        default=0,
        metadata={
            "help": "subagents that session 1 starts at once; the fleet is played without them first, and "
            "the report says what they cost the others"
        },
    )
    cancels: float = field(
        default=0.0, metadata={"help": "share of requests that the user drops, from 0 to 1"}
    )
    cancel_s: float = field(default=5.0, metadata={"help": "a dropped request lives at most this long"})
    ramp_s: float = field(default=0.0, metadata={"help": "seconds over which the sessions arrive"})
    seed: int = field(default=0, metadata={"help": "of everything that is drawn"})

    def __post_init__(self) -> None:
        for name in ("sessions", "turns", "output_tokens", "subagent_turns"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        for name in (
            "system_chars",
            "tools",
            "turn_chars",
            "tool_gap_s",
            "tool_gap_sigma",
            "cancel_s",
            "crowd",
            "ramp_s",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative")
        for name in ("subagents", "cancels"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """A file of recorded sessions in place of a drawn fleet."""

    trace: str | None = field(
        default=None, metadata={"help": "file of recorded agent sessions to replay in place of a drawn fleet"}
    )
    trace_scale: float = field(default=1.0, metadata={"help": "factor of all lengths in this file"})
    gap_cap_s: float = field(default=10.0, metadata={"help": "longer idle times in this file last so long"})

    def __post_init__(self) -> None:
        if self.trace_scale <= 0:
            raise ValueError("--trace-scale must be above 0")
        if self.gap_cap_s < 0:
            raise ValueError("--gap-cap-s must not be negative")
        if self.trace is None and (self.trace_scale, self.gap_cap_s) != (1.0, 10.0):
            raise ValueError("--trace-scale and --gap-cap-s need --trace")


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """The server to measure, and the report's files."""

    url: str = field(default=DEFAULT_URL, metadata={"help": "the server, without a path"})
    protocol: ProtocolName = field(
        default="anthropic",
        metadata={"help": "/v1/messages or /v1/chat/completions", "choices": get_args(ProtocolName)},
    )
    model: str = field(default="claude-bench", metadata={"help": "model named in the requests"})
    api_key: str = field(default=LOCAL_KEY, metadata={"help": "key sent to the server"})
    timeout_s: float = field(default=600.0, metadata={"help": "a request that takes longer is an error"})
    json: str | None = field(default=None, metadata={"help": "file for the report and every request's times"})
    plot: str | None = field(default=None, metadata={"help": "file for a plot (SVG)"})

    def __post_init__(self) -> None:
        if not self.url.startswith("http://"):
            raise ValueError("--url must begin with http://")
        if self.timeout_s <= 0:
            raise ValueError("--timeout-s must be above 0")
