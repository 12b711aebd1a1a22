"""The file of API keys: its lines are read and checked, nothing more.

# a comment
alice  sk-alice-4f0c...  concurrent=4 share=2
bob    sk-bob-91d2...    shared
"""

import math
import os
import re
import stat
from dataclasses import dataclass

from .. import PensieveError

MAX_KEYS = 256
"""Keys of a file: each is compared with that of every request, and has metrics of its own."""

MAX_BYTES = 2**20

NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
KEY = re.compile(r"[!-~]{8,500}", re.ASCII)
LIMIT = re.compile(r"(concurrent|share)=(\d{1,6}(?:\.\d{1,6})?)", re.ASCII)

MIN_SHARE, MAX_SHARE = 0.01, 100.0


class KeysFileError(PensieveError):
    """The file of keys cannot be read, or has a wrong line."""


@dataclass(frozen=True, slots=True)
class NamedKey:
    """One line of the file.

    concurrent: most requests at a time; None for no limit. share: see Account. is_shared: whether its
    requests find in the cache what others have computed that are shared as well, and these what it has.
    """

    name: str
    key: str
    concurrent: int | None = None
    share: float = 1.0
    is_shared: bool = False


def read_keys_file(path: str) -> list[NamedKey]:
    """Read the file. Raises KeysFileError."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise KeysFileError(f"--api-keys-file {path}: {why}") from error
    if len(content) > MAX_BYTES:
        raise KeysFileError(f"--api-keys-file {path}: it has more than {MAX_BYTES} bytes")
    try:
        return parse_keys(text)
    except KeysFileError as error:
        raise KeysFileError(f"--api-keys-file {path}: {error}") from error


def is_open_to_others(path: str) -> bool:
    """Return whether other users of this machine may read or change the file."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def parse_keys(text: str) -> list[NamedKey]:
    """Return the keys of a file. Raises KeysFileError, which quotes no key."""
    keys: list[NamedKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            keys.append(_parse(line))
        except KeysFileError as error:
            raise KeysFileError(f"line {number}: {error}") from error
    for kind, values in (("name", [key.name for key in keys]), ("key", [key.key for key in keys])):
        if len(set(values)) < len(values):
            raise KeysFileError(f"two lines have the same {kind}")
    if not 0 < len(keys) <= MAX_KEYS:
        raise KeysFileError(f"it must have 1 to {MAX_KEYS} keys, and has {len(keys)}")
    return keys


def _parse(line: str) -> NamedKey:
    words = line.split()
    if len(words) < 2:
        raise KeysFileError("a line is `name key [limits]`")
    name, key, *limits = words
    if not NAME.fullmatch(name):
        raise KeysFileError("a name has 1 to 64 letters, digits, dots, dashes and underscores")
    if not KEY.fullmatch(key):
        raise KeysFileError(f"the key of {name} must have 8 to 500 printable ASCII characters")
    values: dict[str, float] = {}
    for word in limits:
        found = LIMIT.fullmatch(word)
        if word != "shared" and (found is None or found[1] in values):
            raise KeysFileError(f"{name}: limits are concurrent=N, share=X and shared, each at most once")
        if found is not None:
            values[found[1]] = float(found[2])
    concurrent = values.get("concurrent")
    if concurrent is not None and (concurrent < 1 or not concurrent.is_integer()):
        raise KeysFileError(f"{name}: concurrent must be a whole number above 0")
    share = values.get("share", 1.0)
    if not (math.isfinite(share) and MIN_SHARE <= share <= MAX_SHARE):
        raise KeysFileError(f"{name}: share must lie between {MIN_SHARE:g} and {MAX_SHARE:g}")
    is_shared = "shared" in limits
    return NamedKey(name, key, None if concurrent is None else int(concurrent), share, is_shared)
