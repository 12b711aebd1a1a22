from pathlib import Path
from typing import Any

import mlx_lm.utils
import pytest


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return mlx_lm.utils.load_model(tiny_model)[0]
