"""Messages between the server and the engine's process."""

import asyncio
import socket

from pensieve.engine.channel import Channel


def test_answers_that_are_there_at_once_leave_other_tasks_their_turns() -> None:
    """A quick engine once kept the event loop from everything else until its requests were answered."""
    ours, theirs = socket.socketpair()
    engine, server = Channel(theirs), Channel(ours)

    async def turn() -> None:
        return

    async def main() -> list[tuple[int, bool]]:
        results = []
        for answer in range(5):
            engine.send(answer)
            other = asyncio.create_task(turn())
            results.append((await server.ask("next"), other.done()))
        return results

    assert asyncio.run(main()) == [(answer, True) for answer in range(5)]
    engine.close()
    server.close()
