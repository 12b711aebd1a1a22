"""What the disk tier has done, for `/metrics` and for people to read."""

from dataclasses import dataclass


@dataclass(slots=True)
class DiskStats:
    """Counters since the start, and the folder's present size; all but `is_off` are numbers."""

    limit_bytes: int
    used_bytes: int = 0  # all that lies in the folder, with what is being written
    num_files: int = 0
    num_blocks: int = 0  # blocks of KV that can be found
    num_writes: int = 0
    written_bytes: int = 0
    num_write_failures: int = 0
    num_skipped: int = 0  # files that were not written: no room, the hour's budget, a pause after a failure
    num_reads: int = 0
    read_bytes: int = 0
    num_read_failures: int = 0  # files that were gone or could not be read
    num_damaged: int = 0  # files that were removed because they are not what was once written
    num_evicted: int = 0
    is_off: bool = False  # the disk failed for good, or does not answer
