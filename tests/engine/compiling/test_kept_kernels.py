import logging
import os
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from pensieve.engine.compiling.kept_kernels import (
    KeptKernel,
    KernelStore,
    LaunchRecorder,
    keep_compiled_code,
    open_store,
)
from pensieve.engine.compiling.kernel_text import Declaration, KernelText
from pensieve.engine.compiling.module_folder import VARIABLE
from pensieve.engine.compiling.nvrtc import CompileFailed

DECLARATION = Declaration("add", ("x",), ("out",), "", "out[0] = x[0];\n")


class FakeCompiler:
    """Counts what it compiles, and fails for a text that says so."""

    def __init__(self) -> None:
        self.functions: list[str] = []
        self._lock = threading.Lock()

    def compile(self, kernel: KernelText) -> tuple[str, bytes]:
        with self._lock:
            self.functions.append(kernel.function)
        if "wrong" in kernel.text:
            raise CompileFailed("it is wrong")
        return f"mangled_{kernel.function}", kernel.text.encode()


def launch_arguments(dtype: mx.Dtype = mx.float32) -> dict[str, Any]:
    return {
        "inputs": [mx.zeros((8,), dtype)],
        "template": [("T", dtype)],
        "grid": (8, 1, 1),
        "threadgroup": (8, 1, 1),
        "output_shapes": [(3, 2)],
        "output_dtypes": [dtype],
    }


def store_of(folder: Path) -> tuple[KernelStore, FakeCompiler]:
    compiler: Any = FakeCompiler()
    return KernelStore(folder, compiler), compiler


def test_only_what_is_missing_is_compiled(tmp_path: Path) -> None:
    store, compiler = store_of(tmp_path)
    kernels = [KernelText(f"f{i}", f"text {i}") for i in range(9)]
    assert store.fill(kernels[:6]) == 6
    assert store.fill([*kernels, *kernels]) == 3
    assert sorted(compiler.functions) == [f"f{i}" for i in range(9)]
    codes = {path.read_text() for path in tmp_path.glob("*.ptx")}
    assert codes == {kernel.text for kernel in kernels}


def test_what_fails_is_left_to_mlx(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, _ = store_of(tmp_path)
    with caplog.at_level(logging.INFO):
        store.fill([KernelText("bad", "wrong"), KernelText("good", "text")])
    assert "MLX compiles bad by itself: it is wrong" in caplog.text
    assert [path.name.split("_")[0] for path in tmp_path.glob("*.ptx")] == ["good"]
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_a_launch_has_new_code_compiled_before_mlx_looks_for_it(tmp_path: Path) -> None:
    store, compiler = store_of(tmp_path)
    found_files = []

    def launch(**arguments: Any) -> list[mx.array]:
        found_files.append(len(list(tmp_path.glob("*.ptx"))))
        return [mx.zeros(shape) for shape in arguments["output_shapes"]]

    kernel = KeptKernel(DECLARATION, launch, store)
    for dtype in (mx.float32, mx.float32, mx.bfloat16, mx.float32):
        assert kernel(**launch_arguments(dtype))[0].shape == (3, 2)
    assert found_files == [1, 1, 2, 2]
    assert compiler.functions == ["custom_kernel_add_float", "custom_kernel_add_bfloat16_t"]


def test_types_that_are_not_known_are_left_to_mlx(tmp_path: Path) -> None:
    store, compiler = store_of(tmp_path)
    kernel = KeptKernel(DECLARATION, lambda **_: [mx.array(1)], store)
    assert kernel(**launch_arguments(mx.complex64))[0].item() == 1
    assert not compiler.functions


def test_a_recorder_notes_each_code_once_and_returns_zeros() -> None:
    recorder = LaunchRecorder()
    launch = recorder.declare(DECLARATION)
    for dtype in (mx.float32, mx.bfloat16, mx.float32):
        (out,) = launch(**launch_arguments(dtype))
        assert (out.shape, out.dtype, out.abs().max().item()) == ((3, 2), dtype, 0)
    functions = [kernel.function for kernel in recorder.kernels.values()]
    assert functions == ["custom_kernel_add_float", "custom_kernel_add_bfloat16_t"]


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu) and not mx.metal.is_available(), reason="CUDA")
def test_nothing_happens_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    keep_compiled_code()
    assert VARIABLE not in os.environ
    assert open_store() is None
