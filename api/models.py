"""`GET /v1/models`: the served model, by its own name and by an alias that Claude Code lists."""

import re
from typing import Any

from fastapi import APIRouter

from ..engine.served_model import ServedModel
from .errors import NotFound
from .services import Services

UNKNOWN_DATE = "1970-01-01T00:00:00Z"  # Anthropic's API returns this for an unknown release date


class ModelsApi:
    """The routes that describe the served model."""

    def __init__(self, services: Services) -> None:
        self._model = services.model

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/v1/models", self.list_models, methods=["GET"], response_model=None)
        # Names of hub models hold a slash.
        router.add_api_route("/v1/models/{name:path}", self.get_model, methods=["GET"], response_model=None)
        return router

    async def list_models(self) -> dict[str, Any]:
        """List the model's names, all on one page."""
        names = [self._model.name, alias(self._model.name)]
        entries = [describe(self._model, name) for name in dict.fromkeys(names)]
        page = {"has_more": False, "first_id": names[0], "last_id": entries[-1]["id"]}
        return {"object": "list", "data": entries} | page

    async def get_model(self, name: str) -> dict[str, Any]:
        """Describe the model under any name that `check_model` accepts. Raises NotFound."""
        check_model(name, self._model.name)
        return describe(self._model, name)


def alias(served: str) -> str:
    """Return a name that begins with `claude-`: Claude Code's model picker shows no others."""
    slug = re.sub(r"[^a-z0-9]+", "-", served.rpartition("/")[2].lower()).strip("-")
    return slug if slug.startswith("claude-") else f"claude-{slug}"


def check_model(name: str, served: str) -> None:
    """Raise NotFound unless `name` means the served model.

    Claude Code also asks for Anthropic's models, so every `claude-…` name means the served model.
    """
    plain = name.removesuffix(":latest")  # as Ollama's clients write it
    short = plain.rpartition("/")[2]  # without the provider, which some clients put before the name
    known = plain == served or short in (served.rpartition("/")[2], "default")
    if not known and not short.lower().startswith("claude-"):
        raise NotFound(
            f"model: {name[:200]!r} is not served here; this server has {served!r}", reason="model"
        )


def describe(model: ServedModel, name: str) -> dict[str, Any]:
    """Return the model's entry under one of its names, with Anthropic's fields and OpenAI's."""
    return {
        "type": "model",
        "id": name,
        "display_name": model.name.rpartition("/")[2],
        "description": f"{model.name}, served locally by Pensieve",
        "created_at": UNKNOWN_DATE,
        "lifecycle": "active",
        "max_input_tokens": model.max_context - 1,
        "max_tokens": model.max_context - 1,
        "object": "model",
        "created": 0,
        "owned_by": model.name.rpartition("/")[0] or "local",
    }
