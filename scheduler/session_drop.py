"""Frees what a session has in the cache, when somebody asks for it."""

from typing import NamedTuple

from ..cache.blocks import BLOCK_SIZE
from .scheduler import Scheduler
from .session_tree import KnownSession


class DroppedSession(NamedTuple):
    """What became of a session. num_tokens: whose KV was freed. num_requests: that go on meanwhile."""

    name: str
    number: int
    num_tokens: int
    num_requests: int


def drop_session(scheduler: Scheduler, session: KnownSession) -> DroppedSession:
    """Free the KV that is the session's alone, in memory and on disk, and forget the session.

    Its requests under way go on, and keep what they hold: whoever wants memory gets the rest of it, and no
    client sees an error. While there are any, the session stays known. What other conversations begin with as
    well stays theirs. On disk, that is removed which continues what is in memory: nothing tells whose the
    rest is, and it makes room by its age.
    """
    threads = session.threads
    owners = set(threads)
    num_blocks = 0
    for thread in threads:
        tip = thread.tip
        if tip is None or tip.node.parent is None:
            continue  # nothing, or evicted
        scheduler.disk.remove(tip.tokens, thread.space, tip.num_shared(owners))
        num_blocks += scheduler.kv_cache.tree.drop(tip, owners)
    asking = [one.conversation.session for one in scheduler.queues.by_id.values() if one.conversation]
    num_requests = sum(one is session for one in asking)
    if not num_requests:
        scheduler.sessions.forget(session)
    return DroppedSession(session.key[1], session.number, num_blocks * BLOCK_SIZE, num_requests)
