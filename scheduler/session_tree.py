"""Sessions as a tree: a session has agents, an agent has conversations."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from ..cache.tree_nodes import Owner, TreePosition
from .fair_share import FairShare
from .origin import Account
from .session_usage import SessionUsage

MAX_AGENTS = 64
"""Agents of a session that are remembered."""

MAX_TIPS = 16
"""Conversations that an agent of unknown name may have beside one another."""


class KnownThread(Owner):
    """Prompts of one agent, each of which goes on from the one before.

    tip: where the last prompt and its answer end in the prefix tree. space: of that prompt; see Account.
    is_certain: whether the client names the agent and says that the request is its own. A prompt that parts
    from the tip then replaces what it has left; else it may be another conversation.
    answered_s: when the last answer ended; None while a request runs, and before the first one.
    calls: names of the tools that the last answer has called.
    """

    __slots__ = ("answered_s", "calls", "is_certain", "session", "space", "tip", "unanswered")

    def __init__(self, session: "KnownSession", is_passing: bool = False, is_certain: bool = False) -> None:
        super().__init__(is_passing)
        self.session = session
        self.is_certain = is_certain
        self.tip: TreePosition | None = None
        self.space = b""
        self.answered_s: float | None = None
        self.calls: frozenset[str] = frozenset()
        self.unanswered: object = None  # the sequence that has ended last, until its answer's end is told


@dataclass(slots=True)
class KnownAgent:
    """The main agent of a session, whose name is empty, or a subagent.

    parent: name of the agent that has started it, if the client says so. kind: as the client names it.
    num_tokens: of its last prompt and answer. tools: that its last answer has called; none while it runs.
    """

    name: str
    parent: str = ""
    kind: str = ""
    num_tokens: int = 0
    tools: frozenset[str] = frozenset()
    own: KnownThread | None = None  # the one that is certain
    guessed: deque[KnownThread] = field(default_factory=lambda: deque(maxlen=MAX_TIPS))

    def conversation_at(self, position: TreePosition) -> KnownThread | None:
        """Return which of the guessed conversations a prompt goes on, whose cached prefix ends there."""
        for conversation in self.guessed:
            if position.node.owner is conversation:
                return conversation
        tips = {one.tip.node: one for one in self.guessed if one.tip is not None}
        node = position.node
        while tips and node.parent is not None:
            if node in tips:
                return tips[node]
            node = node.parent
        return None


@dataclass(slots=True)
class KnownSession:
    """A client's session: its agents, the one that was used longest ago first.

    number: that no other session has, before or later. folder: see Origin.
    """

    key: tuple[bytes, str]
    number: int
    account: Account
    usage: SessionUsage
    fair_share: FairShare
    last_s: float = 0.0
    folder: str = ""
    agents: OrderedDict[str, KnownAgent] = field(default_factory=OrderedDict)

    @property
    def threads(self) -> list[KnownThread]:
        """The conversations of all agents that are known."""
        own = [agent.own for agent in self.agents.values() if agent.own is not None]
        return [*own, *(thread for agent in self.agents.values() for thread in agent.guessed)]

    def agent(self, name: str) -> KnownAgent:
        """Return the agent of that name, which is used now."""
        agent = self.agents.setdefault(name, KnownAgent(name))
        self.agents.move_to_end(name)
        while len(self.agents) > MAX_AGENTS:
            self.agents.popitem(last=False)
        return agent
