"""Who sends a request and why, as far as the client says so."""

from dataclasses import dataclass, field
from typing import Literal

RequestClass = Literal["main", "subagent", "workflow", "compaction", "auxiliary"]

WorkClass = Literal["main", "subagent", "auxiliary", "background"]
"""What a request is for, as far as its order among others goes."""


@dataclass(frozen=True, slots=True)
class Account:
    """The API key that let a request in, where several keys exist; else all requests have one account.

    name: of the key; empty without named keys. share: what its requests get of the device, as a multiple of
    what those of another account get. space: requests of one space find one another's prefixes in the cache,
    and nobody else's; empty for the one that most have in common.
    """

    name: str = ""
    share: float = 1.0
    space: bytes = b""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a request says of its sender. It decides who goes first and how long KV is kept; people see it.

    owner: digest of the API key, named or as it was sent; without any, all are one owner. Sessions of others
    are others.
    account: of the API key. It is the server's own knowledge, not the client's word.
    session: the client's name of its session; empty for none.
    agent, parent: names of the subagent that asks and of the agent that started it; empty for the main one.
    request_class: what the request is for; None where the client does not say.
    tool_times_s: the tools that have run since the agent's last answer, with the seconds that each took.
    is_compacted: whether the agent's earlier context has been replaced by a summary.
    folder: the last name of the path of the folder in which the client works; empty where none is named.
    """

    owner: bytes = b""
    session: str = ""
    agent: str = ""
    parent: str = ""
    request_class: RequestClass | None = None
    agent_type: str = ""
    prompt_id: str = ""
    tool_times_s: tuple[tuple[str, float], ...] = ()
    is_compacted: bool = False
    folder: str = ""
    account: Account = field(default_factory=Account)

    @property
    def work_class(self) -> WorkClass:
        """What the request is for; a subagent's unless it says otherwise, where it names one."""
        match self.request_class:
            case "workflow" | "compaction":
                return "background"
            case None:
                return "subagent" if self.agent else "main"
            case "main" | "subagent" | "auxiliary":
                return self.request_class
