"""`GET /health` and `GET /metrics`."""

from dataclasses import asdict

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from .. import __version__
from .errors import UNAVAILABLE
from .services import Services


class HealthApi:
    """The routes that report the server's state."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/health", self.health, methods=["GET", "HEAD"], response_model=None)
        router.add_api_route("/metrics", self.metrics, methods=["GET"], response_model=None)
        return router

    async def health(self) -> Response:
        """Return the server's state, with status 503 unless it takes requests and its engine goes on.

        status: "ok", "stalled" (the engine does not move, or a step does not end), "restarting", "stopping",
        or "error" (the engine is given up).
        """
        stats = self._services.scheduler.stats()
        body = {
            "status": stats.state,
            "version": __version__,
            "model": self._services.model.name,
            "max_context": self._services.model.max_context,
            "device": self._services.model.device,
            "attention": self._services.model.attention,
            "kv": self._services.model.kv_type,
            "state_bytes": self._services.model.state_bytes,
            "window": None if self._services.model.window is None else self._services.model.window.size,
            "web_search": self._services.search is not None,
            "template": asdict(self._services.abilities),
            "stats": stats.as_dict(),
        }
        return JSONResponse(body, status_code=200 if stats.state == "ok" else UNAVAILABLE)

    async def metrics(self) -> Response:
        """Return the metrics in Prometheus's text format."""
        text, media_type = self._services.metrics.render()
        return Response(text, media_type=media_type)
