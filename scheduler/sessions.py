"""Which session and agent sends a request, and how long the KV of its conversation will be of use.

A conversation whose answer ended with tool calls comes back when the tools have run; how long that takes is
learned, by tool, by session and in general. One whose turn has ended waits for its user. A subagent whose
turn has ended does not come back, nor does a side request; what only they use goes first. Where an agent's
prompt parts from what it had (after a compaction), the part that it has left goes first as well. A client
that names no agents is understood by its prompts: each goes on with the conversation whose cached blocks it
extends.

Nothing is pinned: the prefix tree and its checkpoints rank what they keep by these gaps (`cache/radix.py`),
and evict as much as is needed. Sessions are forgotten when they have been idle for long.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from ..cache.blocks import BLOCK_SIZE
from ..cache.radix import RadixTree
from ..cache.tree_nodes import TreePosition
from .fair_share import FairShare
from .kv_cache_manager import KVCacheManager
from .learned_gaps import Kind, LearnedGaps
from .origin import Origin
from .sequence import Sequence
from .session_tree import KnownSession, KnownThread
from .session_usage import SessionUsage

MAX_SESSIONS = 1024

IDLE_S = 12 * 3600.0
"""Seconds after which an idle session is forgotten."""

TOOL_GAP_S = 5.0
"""Expected of tools while too few gaps are known."""

TURN_GAP_S = 120.0
"""Expected of a user while too few gaps are known."""

PASSING = ("auxiliary", "compaction")
"""Requests to whose own tokens no later one returns."""


class Sessions:
    """The sessions that have sent requests lately. It has no clock: it is told the time."""

    def __init__(self, kv_cache: KVCacheManager) -> None:
        self._kv_cache = kv_cache
        self._sessions: OrderedDict[tuple[bytes, str], KnownSession] = OrderedDict()  # used longest ago first
        self._gaps = LearnedGaps()
        self._num_sessions = 0  # ever seen
        self._now_s = 0.0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[KnownSession]:
        """Return the sessions, the one that was used last first."""
        return reversed(self._sessions.values())

    def find(self, name: str, account: str | None = None) -> list[KnownSession]:
        """Return the sessions of one account, or of all, that a person may mean by `name`.

        It is a session's name or number, or else the beginning of a name.
        """
        own = [one for one in self if account is None or one.account.name == account]
        exact = [one for one in own if name in (one.key[1], str(one.number))]
        return exact or [one for one in own if name and one.key[1].startswith(name)]

    def forget(self, session: KnownSession) -> None:
        """Know a session no longer; its next request is a new one's first."""
        self._sessions.pop(session.key, None)

    @property
    def now_s(self) -> float:
        """The time that was told last."""
        return self._now_s

    def tell_time(self, now_s: float) -> None:
        """Say that it is `now_s`, in seconds of some clock."""
        self._now_s = now_s
        self._tree.tell_time(now_s)

    def fair_share(self, origin: Origin) -> FairShare:
        """Return the share of the session that sends a request."""
        return self._session(origin).fair_share

    def begin(self, sequence: Sequence) -> None:
        """Find the conversation of `sequence`, which has arrived."""
        origin = sequence.request.origin
        session = self._session(origin)
        session.folder = origin.folder or session.folder
        if origin.request_class in PASSING:
            sequence.conversation = KnownThread(session, is_passing=True)
            return
        agent = session.agent(origin.agent)
        agent.parent, agent.kind, agent.tools = origin.parent, origin.agent_type, frozenset()
        if origin.agent or origin.request_class is not None:
            found = agent.own = agent.own or KnownThread(session, is_certain=True)
            if origin.is_compacted and found.tip is not None:
                self._tree.settle(found.tip, found, math.inf)
        else:
            self._kv_cache.num_cached_tokens(sequence)
            known = sequence.tree_position
            guess = None if known is None else agent.conversation_at(known)
            found = guess or KnownThread(session)
            if guess is None:
                agent.guessed.append(found)
        sequence.conversation = found
        self._learn(found, origin)

    def end(self, sequence: Sequence, position: TreePosition | None) -> None:
        """Note that `sequence` has ended, and that its prefix ends at `position`.

        Call it after the sequence's blocks and states are freed. How its answer ended is told later.
        """
        conversation = sequence.conversation
        if conversation is None or sequence.num_cached_tokens is None:
            return  # it was never admitted
        self._count(sequence, conversation)
        if position is None:
            return  # it has ended while it waited to go on
        if conversation.tip is None:
            self._share_heads(sequence, position)
        if conversation.is_passing:
            self._settle(conversation, position, math.inf)
            return
        old = conversation.tip
        if old is not None and conversation.is_certain:
            self._leave(conversation, old, position)
        conversation.tip, conversation.space, conversation.unanswered = position, sequence.space, sequence
        self._settle(conversation, position, self._tool_gap(conversation, ()))

    def answered(self, sequence: Sequence, calls: Iterable[str] | None) -> None:
        """Note that the answer of `sequence`, which has ended, has called the tools `calls`.

        None: it was broken off, by a failure, after which the client asks again, or by its user. Whoever
        stops a subagent goes on with the agent that has started it.
        """
        conversation, origin = sequence.conversation, sequence.request.origin
        if origin.request_class == "compaction" and sequence.finish_reason == "stop":
            self._compacted(origin)
        if conversation is None or conversation.unanswered is not sequence or conversation.tip is None:
            return
        conversation.unanswered = None
        if calls is None:
            self._broken_off(conversation, origin)
            return
        conversation.answered_s, conversation.calls = self._now_s, frozenset(calls)
        conversation.session.agent(origin.agent).tools = conversation.calls
        if conversation.calls:
            gap_s = self._tool_gap(conversation, conversation.calls)
        elif origin.agent or origin.request_class not in (None, "main"):
            gap_s = math.inf
        else:
            gap_s = self._turn_gap(conversation)
        self._settle(conversation, conversation.tip, gap_s)

    @property
    def _tree(self) -> RadixTree:
        return self._kv_cache.tree

    def _session(self, origin: Origin) -> KnownSession:
        key = origin.owner, origin.session
        session = self._sessions.get(key)
        if session is None:
            self._num_sessions += 1
            usage = SessionUsage(self._now_s)
            share = FairShare(origin.account, usage, origin.owner)
            session = KnownSession(key, self._num_sessions, origin.account, usage, share)
            self._sessions[key] = session
        session.last_s = self._now_s
        self._sessions.move_to_end(key)
        oldest = next(iter(self._sessions.values()))
        if len(self._sessions) > MAX_SESSIONS or self._now_s - oldest.last_s > IDLE_S:
            self._sessions.popitem(last=False)
        return session

    def _count(self, sequence: Sequence, conversation: KnownThread) -> None:
        """Add a sequence that was admitted and has ended to what its session has used."""
        num_prompt, num_cached = sequence.num_prompt_tokens, sequence.num_cached_tokens or 0
        if sequence.request.num_answered:
            num_prompt = num_cached = 0  # it goes on with an answer whose prompt was counted
        num_generated = len(sequence.tokens) - sequence.num_prompt_tokens
        conversation.session.usage.count(num_prompt, num_cached, num_generated)
        if not conversation.is_passing:
            conversation.session.agent(sequence.request.origin.agent).num_tokens = len(sequence.tokens)

    def _learn(self, conversation: KnownThread, origin: Origin) -> None:
        """Note how long `conversation` has stayed away."""
        if conversation.answered_s is None:
            return
        gap_s = min(self._now_s - conversation.answered_s, IDLE_S)
        conversation.answered_s = None
        session, calls = conversation.session, conversation.calls
        self._gaps.add(_kinds(session, "tools" if calls else "turn"), gap_s)
        times = {name: seconds for name, seconds in origin.tool_times_s if name in calls}
        if not times and len(calls) == 1:
            times = dict.fromkeys(calls, gap_s)
        for name, seconds in times.items():
            self._gaps.add(_kinds(session, "tool", name), min(seconds, gap_s))

    def _broken_off(self, conversation: KnownThread, origin: Origin) -> None:
        """Expect a return as soon as a user's, and one to the agent above before one to a subagent."""
        parent = conversation.session.agents.get(origin.parent) if origin.agent else None
        above = None if parent is None or parent.name == origin.agent else parent.own
        for one in (conversation, above):
            if one is not None and one.tip is not None:
                self._settle(one, one.tip, self._turn_gap(one))

    def _turn_gap(self, conversation: KnownThread) -> float:
        """Return how long the user will take to go on."""
        return self._gaps.expected(_kinds(conversation.session, "turn"), TURN_GAP_S)

    def _tool_gap(self, conversation: KnownThread, calls: Iterable[str]) -> float:
        """Return how long the tools `calls` will take: as long as the slowest one."""
        session = conversation.session
        in_general = self._gaps.expected(_kinds(session, "tools"), TOOL_GAP_S)
        each = [self._gaps.expected(_kinds(session, "tool", name), in_general) for name in calls]
        return max(each, default=in_general)

    def _settle(self, conversation: KnownThread, position: TreePosition, gap_s: float) -> None:
        """Rank what `conversation` has left in the tree by the gap that is expected."""
        conversation.gap_s = gap_s
        soon_s = self._gaps.expected([("tools",)], TOOL_GAP_S)
        conversation.nearness = min(1.0, soon_s / gap_s) if gap_s else 1.0
        self._tree.settle(position, conversation, gap_s)
        if math.isinf(gap_s):
            self._kv_cache.states.checkpoints.forsake(position, conversation, 0)

    def _share_heads(self, sequence: Sequence, position: TreePosition) -> None:
        """Note where others may part from a conversation's first prompt: at its marks but the last."""
        marks = sorted(sequence.request.checkpoints)
        for mark in marks[:-1] or marks:
            num_blocks, num_found = mark // BLOCK_SIZE, (sequence.num_cached_tokens or 0) // BLOCK_SIZE
            if num_found < num_blocks <= position.num_blocks and position.node.parent is not None:
                self._tree.share(position.prefix(num_blocks))

    def _leave(self, conversation: KnownThread, old: TreePosition, new: TreePosition) -> None:
        """Let go of the path to `old`, as far as the path to `new` is another one."""
        if old.node.parent is None or new.node.parent is None:
            return  # void
        num_common = min(old.num_blocks, new.num_blocks)
        one, other = old.prefix(num_common).node, new.prefix(num_common).node
        while one is not other and one.parent is not None and other.parent is not None:
            one, other = one.parent, other.parent
            num_common -= 1
        if num_common < min(old.num_blocks, new.num_blocks):
            self._tree.settle(old, conversation, math.inf)
            num_tokens = num_common * BLOCK_SIZE
            self._kv_cache.states.checkpoints.forsake(old, conversation, num_tokens)

    def _compacted(self, origin: Origin) -> None:
        """Expect no return to the context of which a summary was made."""
        own = self._session(origin).agent(origin.agent).own
        if own is not None and own.tip is not None:
            own.gap_s, own.nearness = math.inf, 0.0
            self._tree.settle(own.tip, own, math.inf)


def _kinds(session: KnownSession, *kind: str) -> list[Kind]:
    """Return the kinds of a gap, the session's own one first."""
    return [(str(session.number), *kind), kind]
