import pytest

from .byte_model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()
