"""Compiles one CUDA text with NVRTC in a process of its own: a job comes on standard input, JSON.

A script that imports nothing but the standard library: it is run by its path. NVRTC has a lock, so that
threads of one process compile one after another; and a compiler that crashes takes no engine with it.
Standard output gets the kernel's mangled name, a line feed, and the GPU's code.
"""

import ctypes
import json
import sys
from typing import Any, NoReturn


def main() -> None:
    """Compile the job, or end with status 1 and the compiler's log on standard error."""
    job = json.load(sys.stdin)
    nvrtc = ctypes.CDLL(job["library"])
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    program = ctypes.c_void_p()
    names, texts = (_strings(part) for part in (job["headers"].keys(), job["headers"].values()))
    source, file_name = job["text"].encode(), f"{job['module_name']}.cu".encode()
    _check(
        nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, file_name, len(texts), texts, names)
    )
    expression, options = job["expression"].encode(), _strings(job["options"])
    _check(nvrtc, nvrtc.nvrtcAddNameExpression(program, expression))
    if nvrtc.nvrtcCompileProgram(program, len(options), options):
        _fail(_text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program))
    mangled = ctypes.c_char_p()
    _check(nvrtc, nvrtc.nvrtcGetLoweredName(program, expression, ctypes.byref(mangled)))
    code = _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    sys.stdout.buffer.write((mangled.value or b"") + b"\n" + code)


def _strings(texts: Any) -> Any:
    """Return C strings of Python's."""
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)


def _text(read_size: Any, read: Any, program: ctypes.c_void_p) -> bytes:
    """Return what a pair of NVRTC's functions tells: one for the size, one for the bytes."""
    size = ctypes.c_size_t()
    if read_size(program, ctypes.byref(size)) or not size.value:
        _fail(b"NVRTC has made no code")
    found = ctypes.create_string_buffer(size.value)
    if read(program, found):
        _fail(b"NVRTC does not tell its code")
    return found.raw


def _check(nvrtc: ctypes.CDLL, status: int) -> None:
    if status:
        _fail(nvrtc.nvrtcGetErrorString(status))


def _fail(log: bytes) -> NoReturn:
    sys.stderr.buffer.write(log.rstrip(b"\0"))
    sys.exit(1)


if __name__ == "__main__":
    main()
