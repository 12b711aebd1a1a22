"""The tools that Codex's sessions have sent, for the requests in which Codex leaves them out.

To compact a conversation, Codex sends it without its tools. The prompt begins with the tools: without them,
the whole conversation would be computed again, when it is at its longest. So the model is shown the session's
tools, and may call none.
"""

from collections import OrderedDict

from .client_tools import AnyTool
from .responses_request import ResponsesRequest

MAX_SESSIONS = 64


class SessionTools:
    """The tools of the sessions seen last. Only Codex's requests name their sessions and kinds."""

    def __init__(self, max_sessions: int = MAX_SESSIONS) -> None:
        self._max_sessions = max_sessions
        self._tools: OrderedDict[tuple[str, str], list[AnyTool]] = OrderedDict()

    def completed(self, owner: str, body: ResponsesRequest) -> ResponsesRequest:
        """Return a request to compact a conversation with its session's tools, any other as it is.

        owner: the key of the client that asks.
        """
        kept = self._tools.get((owner, body.prompt_cache_key or ""))
        if body.codex_request_kind != "compaction" or body.tools or kept is None:
            return body
        return body.model_copy(update={"tools": kept, "tool_choice": "none"})

    def keep(self, owner: str, body: ResponsesRequest) -> None:
        """Remember the tools of a request whose prompt fits, which bounds their size."""
        if body.codex_request_kind != "turn" or not body.tools or not body.prompt_cache_key:
            return
        key = (owner, body.prompt_cache_key)
        self._tools[key] = body.tools
        self._tools.move_to_end(key)
        if len(self._tools) > self._max_sessions:
            self._tools.popitem(last=False)
