"""What this machine lacks that MLX and mlx-lm need before they can be imported, and what is installed."""

from importlib.metadata import PackageNotFoundError, version

NUM_FILES = 4096
"""Open files: mlx-lm makes this the hard limit, and fails where it would have to raise it."""


def unsupported(system: str, machine: str, python: tuple[int, int]) -> str | None:
    """Return why MLX cannot run here, and what to do instead; None where it can run."""
    if system == "Windows":
        return "Windows is not supported by MLX: run Pensieve in WSL 2 (Linux, with an NVIDIA GPU or the CPU)"
    if system == "Darwin" and machine != "arm64":
        return (
            "MLX needs a Mac with Apple silicon and an arm64 Python; this one is for Intel: use Linux instead"
        )
    if system not in ("Darwin", "Linux"):
        return f"MLX runs on macOS and Linux, not on {system}"
    if not (3, 11) <= python < (3, 14):
        return f"Python 3.11 to 3.13 is needed, this is {python[0]}.{python[1]}"
    return None


def few_files() -> bool:
    """Return whether the limit of open files is lower than the one that mlx-lm sets when it is imported."""
    # Imported here: Windows does not have it.
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return limit != resource.RLIM_INFINITY and limit < NUM_FILES


def installed(package: str) -> str:
    """Return a package's version, or that it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
