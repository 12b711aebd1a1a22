from collections.abc import Iterator

import pytest

from ..live import LiveServer, live_server, write_noise
from .byte_model import Model


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of a model that emits noise, for all tests of this folder."""
    with live_server(write_noise(tmp_path_factory.mktemp("models") / "noise")) as server:
        yield server


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()
