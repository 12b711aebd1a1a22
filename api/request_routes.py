"""`GET /v1/requests` and `/v1/requests/{id}`: what became of the latest requests."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest

from .errors import InvalidRequest, NotFound
from .reports.request_log import MAX_REPORTS
from .services import Services

DEFAULT_LIMIT = 20


class RequestsApi:
    """The routes that report requests to those who have sent them, by their API key."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/v1/requests", self.list_requests, methods=["GET"], response_model=None)
        router.add_api_route(
            "/v1/requests/{request_id}", self.get_request, methods=["GET"], response_model=None
        )
        return router

    async def list_requests(self, request: HttpRequest) -> dict[str, Any]:
        """Return the latest requests, the newest first, without their texts. Raises InvalidRequest."""
        limit = request.query_params.get("limit", str(DEFAULT_LIMIT))
        if not (limit.isdecimal() and limit.isascii() and len(limit) < 9 and 1 <= int(limit) <= MAX_REPORTS):
            raise InvalidRequest(f"limit: must lie between 1 and {MAX_REPORTS}")
        reports = self._services.requests.latest(request.state.key, int(limit))
        return {"data": [report.summary() for report in reports]}

    async def get_request(self, request: HttpRequest, request_id: str) -> dict[str, Any]:
        """Return one request, with the texts around the place of a difference. Raises NotFound."""
        report = self._services.requests.find(request.state.key, request_id)
        if report is None:
            raise NotFound(f"no request {request_id[:100]!r} is kept here", reason="request")
        return await asyncio.to_thread(report.details, self._services.prompts.decode)
