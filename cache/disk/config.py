"""Settings of the disk tier; `pensieve serve` makes a flag of each field."""

from dataclasses import dataclass, field

SHARE_OF_FREE = 1 / 10
MAX_DEFAULT_BYTES = 16_000_000_000


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """Where KV is kept on disk, and how much of it."""

    cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "folder for KV on disk, which outlives the server; one server uses it at a time "
            "(default: kv in the user's cache folder)"
        },
    )
    disk_cache_gb: float | None = field(
        default=None,
        metadata={
            "help": "most disk for KV, in GB of 10^9 bytes; 0 keeps none there (default: a tenth of what is "
            "free, at most 16)"
        },
    )

    def limit_bytes(self, free_bytes: int, used_bytes: int) -> int:
        """Return the most bytes that the tier may have on disk.

        free_bytes: of the disk, at the start. used_bytes: what the tier has there from earlier.
        """
        if self.disk_cache_gb is not None:
            return int(self.disk_cache_gb * 1e9)
        return min(int((free_bytes + used_bytes) * SHARE_OF_FREE), MAX_DEFAULT_BYTES)

    def __post_init__(self) -> None:
        if self.cache_dir is not None and not self.cache_dir.strip():
            raise ValueError("--cache-dir must name a folder")
        if self.disk_cache_gb is not None and not 0 <= self.disk_cache_gb < 1e6:
            raise ValueError("--disk-cache-gb must be 0 or more")
