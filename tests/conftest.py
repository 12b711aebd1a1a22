"""Fixtures that several folders of tests share."""

from pathlib import Path

import pytest

import pensieve.engine  # noqa: F401  # before anything that imports mlx, or MLX keeps its slow BLAS

from .models import write_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight llama folder; do not write into it."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")
