"""Kernels' text without one of its barriers, to show that a test would notice."""

import pytest

from pensieve.engine.attention.kernels import source


def leave_out_barrier(patch: pytest.MonkeyPatch, kernel: str, number: int | None, count: int) -> None:
    """Let a kernel's text lack the barrier of this number, None for none. count: barriers that it has."""
    read = source._read

    def without(name: str) -> str:
        parts = read(name).split("BARRIER;")
        if name == kernel:
            assert len(parts) == count + 1
            if number is not None:
                parts[number : number + 2] = [parts[number] + parts[number + 1]]
        return "BARRIER;".join(parts)

    patch.setattr(source, "_read", without)
