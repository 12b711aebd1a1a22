"""The names of the served model."""

import anthropic
import pytest

from pensieve.api.models import alias

from .conftest import Server


def test_the_list_has_the_models_name_and_one_that_claude_code_shows(server: Server) -> None:
    own, other = server.sdk().models.list(limit=1000).data
    assert (own.id, other.id) == ("test-org/Tiny-Model-4bit", "claude-tiny-model-4bit")
    assert own.display_name == other.display_name == "Tiny-Model-4bit"
    assert (own.type, own.lifecycle, own.created_at.year) == ("model", "active", 1970)
    assert own.max_input_tokens == server.model.max_context - 1


@pytest.mark.parametrize("name", ["test-org/Tiny-Model-4bit", "claude-opus-5-5", "default"])
def test_a_model_is_described_under_any_of_its_names(server: Server, name: str) -> None:
    assert server.sdk().models.retrieve(name).id == name


def test_a_model_of_another_name_is_not_found(server: Server) -> None:
    with pytest.raises(anthropic.NotFoundError, match="is not served here"):
        server.sdk().models.retrieve("gpt")


@pytest.mark.parametrize(
    ("served", "name"),
    [
        ("mlx-community/Phi-3-mini-128k-instruct-4bit", "claude-phi-3-mini-128k-instruct-4bit"),
        ("/models/My Model/", "claude-"),
        ("claude-like", "claude-like"),
        ("demo", "claude-demo"),
    ],
)
def test_an_alias_holds_claude(served: str, name: str) -> None:
    assert alias(served).startswith(name)
