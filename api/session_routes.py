"""`GET /v1/sessions`: what the sessions do that send requests to this server."""

import asyncio

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from .reports.session_table import encode, session_table
from .services import Services


class SessionsApi:
    """The routes for sessions. With several API keys, a key sees its own sessions alone."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/v1/sessions", self.list_sessions, methods=["GET"], response_model=None)
        return router

    async def list_sessions(self, request: HttpRequest) -> Response:
        """Return the sessions, those that were used last first."""
        table = await session_table(self._services.scheduler, request.state.account.name)
        return Response(await asyncio.to_thread(encode, table), media_type="application/json")
