"""The process of a rank other than 0: computes its part of each step that rank 0 sends.

    python -m pensieve.engine.follower NEWS LOG_LEVEL

MLX's variables in the environment say which rank it is; NEWS is a pipe's end, see rank_process.py. It ends
with the connection to rank 0, or as soon as its standard input is closed, by the process that has started it.
"""

import json
import logging
import os
import queue
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .. import PensieveError
from .compiling.user_folder import use_private_temporary_folder
from .logs import set_up_logging
from .ranks.plan_bytes import decode_plan
from .ranks.rank_hosts import launched_hosts
from .ranks.rank_link import FAILED_STATUS, REFUSED, FrameKind, Link, LinkClosed, RankError, start_thread
from .ranks.rank_process import MET, READY
from .ranks.rendezvous import Group, connect, enter_group
from .worker import end_with_parent, leave

if TYPE_CHECKING:  # imported by the first message that needs it
    from .loading.model_info import ModelInfo
    from .runner import Runner

logger = logging.getLogger(__name__)


class Follower:
    """Carries out what rank 0 sends, in its order."""

    def __init__(self, group: Group, link: Link) -> None:
        self._group = group
        self._link = link
        self._runner: Runner | None = None

    def carry_out(self, kind: FrameKind, content: bytes) -> None:
        """Do what a frame asks for. Raises PensieveError, StepFailed, ValueError."""
        if kind is FrameKind.MESSAGE:
            self._link.tell(self._answer(json.loads(content)))
            return
        assert self._runner is not None, "the model is loaded first"
        if kind is FrameKind.STEP:
            self._runner.step(decode_plan(content))
        elif kind is FrameKind.DRAIN:
            self._runner.drain()
        self._runner.proceed()

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        from .loading.build import load_runner
        from .loading.device import find_device
        from .loading.rank_facts import hash_samples, read_plan

        if message["do"] == "facts":
            return self._tell_facts(message)
        if message["do"] == "sample":
            return {"weights": hash_samples(self._find_folder(message))}
        memory = read_plan(message["memory"], find_device())
        self._runner = load_runner(self._read_info(message), memory, self._group)
        return {}

    def _tell_facts(self, message: dict[str, Any]) -> dict[str, Any]:
        from .loading.device import find_device
        from .loading.rank_facts import RankFacts

        try:
            return RankFacts.of(self._read_info(message), find_device()).as_message()
        except PensieveError as error:
            return {REFUSED: str(error)}

    def _read_info(self, message: dict[str, Any]) -> "ModelInfo":
        from .loading.loader import compute_dtype
        from .loading.model_info import read_model_info

        path, name, kv_bits = self._find_folder(message), str(message["name"]), int(message["kv_bits"])
        return read_model_info(path, name, compute_dtype(), kv_bits, self._group)

    def _find_folder(self, message: dict[str, Any]) -> Path:
        """Return the model's folder on this machine: rank 0's, or the hub's own. Raises RankError."""
        from .loading.hub import find_local_folder

        if Path(message["path"]).is_dir():
            return Path(message["path"])
        folder = find_local_folder(str(message["name"]))
        if folder is None:
            raise RankError(f"{message['name']} is not on this machine: `pensieve pull` fetches it")
        return folder


def follow(group: Group, link: Link) -> NoReturn:
    """Do what rank 0 asks for until it has gone."""
    frames: queue.Queue[tuple[FrameKind, bytes]] = queue.Queue()
    start_thread("rank 0", _listen, link, frames)
    link.show_life()
    follower = Follower(group, link)
    while True:
        kind, content = frames.get()
        try:
            follower.carry_out(kind, content)
        except LinkClosed:
            leave()
        except Exception as error:
            if not isinstance(error, PensieveError):
                logger.exception("rank %d failed", group.rank())
            _fail(link, str(error) or repr(error))


def _fail(link: Link, why: str) -> NoReturn:
    try:
        link.send(FrameKind.FAILURE, why.encode())
    finally:
        sys.stderr.flush()
        os._exit(FAILED_STATUS)


def _listen(link: Link, frames: "queue.Queue[tuple[FrameKind, bytes]]") -> None:
    """Take frames from the connection, and end this process with it, whatever it computes."""
    try:
        while True:
            kind, content = link.receive()
            if kind is not FrameKind.BEAT:
                frames.put((kind, content))
    except LinkClosed:
        leave()


def main() -> NoReturn:
    """Follow rank 0."""
    news = int(sys.argv[1])
    set_up_logging(sys.argv[2])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # as in the engine's process of rank 0
        signal.signal(number, signal.SIG_IGN)
    start_thread("parent", end_with_parent)
    use_private_temporary_folder()
    try:
        hosts = launched_hosts(os.environ)
        if hosts is None:
            raise RankError("no launcher has started this rank")
        os.write(news, READY)
        group = enter_group(hosts)
        link = connect(group)
        os.write(news, MET)
    except RankError as error:
        logger.error("%s", error)
        sys.stderr.flush()
        os._exit(FAILED_STATUS)  # no shutdown of the interpreter, whose thread reads the standard input
    follow(group, link)


if __name__ == "__main__":
    main()
