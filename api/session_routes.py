"""`GET /v1/sessions` and `DELETE /v1/sessions/{id}`: what sessions do; their KV is freed on request."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from .reports.session_table import encode, session_id, session_table
from .services import Services


class SessionsApi:
    """The routes for sessions. With several API keys, a key sees its own sessions alone."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/v1/sessions", self.list_sessions, methods=["GET"], response_model=None)
        path = "/v1/sessions/{name}"
        router.add_api_route(path, self.drop_session, methods=["DELETE"], response_model=None)
        return router

    async def list_sessions(self, request: HttpRequest) -> Response:
        """Return the sessions, those that were used last first."""
        table = await session_table(self._services.scheduler, request.state.account.name)
        return Response(await asyncio.to_thread(encode, table), media_type="application/json")

    async def drop_session(self, request: HttpRequest, name: str) -> dict[str, Any]:
        """Free the KV that is a session's alone. Raises UnclearSession."""
        dropped = self._services.scheduler.drop_session(name.removeprefix("#"), request.state.account.name)
        return {
            "id": session_id(dropped.name, dropped.number),
            "number": dropped.number,
            "freed_tokens": dropped.num_tokens,
            "requests_under_way": dropped.num_requests,
        }
