"""What this machine computes with, and what of its memory may be used."""

import os
from pathlib import Path

from pensieve.engine.blas import INSTALL_HINT, better_core, describe_blas
from pensieve.engine.loading import device as device_module


def test_this_machine_has_a_device() -> None:
    device = device_module.find_device()
    assert device.name
    assert 0 < device.available_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def write_group(folder: Path, limit: str, used: int, inactive: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")


def test_control_groups_limit_memory_at_every_level(tmp_path: Path) -> None:
    """A container's limit may stand on a group above its own, and page cache counts as used there."""
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("0::/slice/box\n")
    write_group(root / "slice", "4000000000", used=3_000_000_000, inactive=2_500_000_000)
    write_group(root / "slice" / "box", "max", used=5, inactive=0)
    assert device_module._control_groups(root, own) == [(4_000_000_000, 500_000_000)]


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert device_module._control_groups(tmp_path, tmp_path / "missing") == []


def test_the_blas_is_told() -> None:
    assert describe_blas("libopenblas.so.0") in ("OpenBLAS (system)", "Accelerate")
    assert describe_blas(None) == "Accelerate" or INSTALL_HINT in describe_blas(None)


def test_openblas_uses_the_kernels_of_a_processor_that_it_does_not_know() -> None:
    """Debian 12's took a Xeon with AVX-512 for a Prescott, whose kernels have a sixth of the speed."""
    avx2 = {"fpu", "avx2", "fma"}
    avx512 = avx2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
    assert better_core("Prescott", avx512) == "SkylakeX"
    assert better_core("Prescott", avx2) == "Haswell"
    assert better_core("Prescott", {"fpu", "sse2"}) is None
    assert better_core("Zen", avx512) is None
    assert better_core("", set()) is None
