"""The calls of the operating system that the disk tier makes; tests pass a layer whose calls fail."""

import os
import stat
from pathlib import Path

Buffer = bytes | bytearray | memoryview


class FileLayer:
    """Files of the user's alone. Every method raises OSError."""

    def open_new(self, path: str) -> int:
        """Create a file that only the user can read, and open it for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def open_existing(self, path: str) -> int:
        """Open a file for reading. Raises PermissionError where it is no regular file of the user's own."""
        # Without O_NONBLOCK, a pipe in the file's place would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid():
            return handle
        os.close(handle)
        raise PermissionError(f"{path} is no file of this user's")

    def write(self, handle: int, data: Buffer) -> int:
        """Write some of `data`; return how many bytes were written."""
        return os.write(handle, data)

    def read_into(self, handle: int, buffer: memoryview) -> int:
        """Read at most as much as `buffer` holds; return how many bytes were read, 0 at the file's end."""
        return os.readv(handle, [buffer])

    def sync(self, handle: int) -> None:
        """Have the disk keep what was written."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """Close a file."""
        os.close(handle)

    def rename(self, path: str, new_path: str) -> None:
        """Give a file its final name, at once; a file that has the name is replaced."""
        os.replace(path, new_path)

    def sync_folder(self, folder: str) -> None:
        """Have the disk keep the names of a folder's files."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sync(handle)
        finally:
            os.close(handle)

    def remove(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def status(self, path: str) -> os.stat_result:
        """Return the facts of a file, or of a link itself."""
        return os.lstat(path)

    def mark_used(self, path: str) -> None:
        """Set a file's times to now: after a restart, files have their order by these."""
        os.utime(path, follow_symlinks=False)

    def free_bytes(self, folder: Path) -> int:
        """Return how many bytes the user can still write to the disk of `folder`."""
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize
