"""The routes that read, resume, cancel and delete responses that the server keeps."""

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from ...config import KeepAlive
from ...errors import RESPONSES_PATH, InvalidRequest, NotFound
from ...request_origin import owner_of
from .background import BackgroundRuns
from .item_pages import item_page
from .response_store import ResponseStore, StoredResponse

STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class KeptResponses:
    """The responses of one server, kept or in the background, as their clients ask for them."""

    def __init__(self, store: ResponseStore, runs: BackgroundRuns, keep_alive: KeepAlive) -> None:
        self._store = store
        self._runs = runs
        self._keep_alive = keep_alive

    def router(self) -> APIRouter:
        """Return the routes."""
        router, one = APIRouter(), RESPONSES_PATH + "/{response_id}"
        router.add_api_route(f"{one}/cancel", self.cancel, methods=["POST"], response_model=None)
        router.add_api_route(one, self.retrieve, methods=["GET"], response_model=None)
        router.add_api_route(one, self.delete, methods=["DELETE"], response_model=None)
        router.add_api_route(f"{one}/input_items", self.input_items, methods=["GET"], response_model=None)
        return router

    async def retrieve(self, request: HttpRequest, response_id: str) -> Response:
        """Return a response as it is now, or the events of one in the background.

        Raises NotFound, or InvalidRequest where the events are not kept.
        """
        if request.query_params.get("stream") == "true":
            return self.stream(request, response_id)
        run = self._runs.find(_owner(request), response_id)
        if run is not None:
            return JSONResponse(run.body)  # also once the store has dropped it
        return Response(self._find(request, response_id).body, media_type="application/json")

    def stream(self, request: HttpRequest, response_id: str, after: int | None = None) -> Response:
        """Return the events of a response in the background, those behind `after` or `starting_after`.

        Raises NotFound or InvalidRequest.
        """
        run = self._runs.find(_owner(request), response_id)
        if run is None:
            self._find(request, response_id)
            raise InvalidRequest("stream: only the events of responses in the background are kept")
        if after is None:
            after = _number(request.query_params.get("starting_after", "-1"))
        if after + 1 < run.events.first:
            raise InvalidRequest(
                f"starting_after: events before {run.events.first} are no longer kept; ask without stream"
            )
        parts = run.events.follow(after, self._keep_alive.interval_s)
        return StreamingResponse(parts, media_type="text/event-stream", headers=STREAM_HEADERS)

    async def cancel(self, request: HttpRequest, response_id: str) -> Response:
        """End a response in the background, unless it has ended. Raises NotFound or InvalidRequest."""
        run = self._runs.find(_owner(request), response_id)
        if run is None:
            self._find(request, response_id)
            raise InvalidRequest("cancel: not a response in the background; others end with their connection")
        run.cancel()
        return JSONResponse(run.body)

    async def delete(self, request: HttpRequest, response_id: str) -> Response:
        """Forget a response; one that runs ends. Raises NotFound."""
        if not self._runs.forget(_owner(request), response_id):
            self._find(request, response_id)
        self._store.delete(_owner(request), response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    async def input_items(self, request: HttpRequest, response_id: str) -> Response:
        """Return a page of the items that a kept response answers. Raises NotFound or InvalidRequest."""
        return JSONResponse(item_page(self._find(request, response_id).input, request.query_params))

    def _find(self, request: HttpRequest, response_id: str) -> StoredResponse:
        owner = _owner(request)
        run = self._runs.find(owner, response_id)
        entry = self._store.get(owner, response_id) if run is None or run.has_ended else run.entry
        if entry is None:
            raise NotFound(f"no response {response_id[:100]!r} is kept here", reason="response")
        return entry


def _owner(request: HttpRequest) -> str:
    return owner_of(request).hex()


def _number(text: str) -> int:
    if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > 12:
        raise InvalidRequest("starting_after: must be the sequence number of an event")
    return int(text)
