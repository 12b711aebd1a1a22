"""A folder that stands for a model whose weights are still on the hub, so that it can be judged before.

Its small files are links to those in the cache. Of each file of weights it has the header, which names all
tensors with their types and shapes, and in place of the data a hole, which takes no room on the disk.
Whatever reads no tensor's values works on such a folder as on the model: reading its facts, planning its
memory, loading it lazily.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from .download import fetch_start
from .snapshot import RemoteFile, Snapshot
from .weights import LENGTH_BYTES, MAX_HEADER_BYTES

# The headers of most files are shorter; a longer one takes a second request.
FIRST_BYTES = 100_000

# Headers fetched at a time: a large model has hundreds of files.
NUM_CONNECTIONS = 8


@contextmanager
def outline(snapshot: Snapshot) -> Iterator[Path]:
    """Make the folder, whose small files must be in the cache, and remove it at the end.

    Raises the hub client's errors.
    """
    with TemporaryDirectory(prefix="pensieve-") as name:
        folder = Path(name)
        absent = set(snapshot.find_missing(file for file in snapshot.files if file.has_weights))
        for file in snapshot.files:
            if file not in absent:
                (folder / file.name).symlink_to(_find(snapshot, file))
        with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
            headers = pool.map(lambda file: (file, _fetch_header(snapshot, file)), absent)
            for file, header in headers:
                with (folder / file.name).open("wb") as stream:
                    stream.write(header)
                    stream.truncate(file.size)
        yield folder


def _find(snapshot: Snapshot, file: RemoteFile) -> Path:
    path = snapshot.folder / file.name
    return (path if path.exists() else snapshot.blob(file)).absolute()


def _fetch_header(snapshot: Snapshot, file: RemoteFile) -> bytes:
    """Fetch the beginning of a file of weights: its header, if the file is one of weights at all."""
    start = fetch_start(snapshot, file, min(FIRST_BYTES, file.size))
    size = LENGTH_BYTES + int.from_bytes(start[:LENGTH_BYTES], "little")
    if len(start) < size <= min(LENGTH_BYTES + MAX_HEADER_BYTES, file.size):
        return fetch_start(snapshot, file, size)
    return start
