"""Which API keys are let in, what each may use, and how many of its requests run."""

import hmac
import logging
import secrets
import time
from collections import abc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b

from ..scheduler.origin import Account
from ..scheduler.queue_forecast import QueueForecast
from .config import ServerConfig
from .errors import Unauthenticated, too_many_requests
from .keys_file import KeysFileError, NamedKey, is_open_to_others, read_keys_file

DEFAULT_NAME = "default"
"""The name of --api-key beside a file of keys. It has no limits, and the cache that shared keys have."""

logger = logging.getLogger(__name__)


class KeyPlaces:
    """The requests of one key that run or wait, and when a place among them will be free."""

    def __init__(self) -> None:
        self.limit: int | None = None  # None for no limit
        self.num_held = 0
        self._forecast = QueueForecast()

    @property
    def is_full(self) -> bool:
        """Whether no more requests are let in."""
        return self.limit is not None and self.num_held >= self.limit

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold a place for one request. Raises RateLimited where none is free. name: of the key."""
        if self.is_full:
            wait_s = self._forecast.refuse(time.monotonic())
            raise too_many_requests(f"the key {name} has {self.limit} requests under way, its most", wait_s)
        self.num_held += 1
        self._forecast.observe(time.monotonic(), 0, self.is_full)
        try:
            yield
        finally:
            was_full = self.is_full
            self.num_held -= 1
            self._forecast.observe(time.monotonic(), was_full, self.is_full)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that is let in. digest: names who may read its requests' reports and responses."""

    account: Account = field(default_factory=Account)
    digest: bytes = b""
    places: KeyPlaces = field(default_factory=KeyPlaces)


class ApiKeys:
    """The keys of a server: that of --api-key, and those of the file of --api-keys-file."""

    def __init__(self, config: ServerConfig, forget: Callable[[set[str]], None] = lambda _: None) -> None:
        """Read the file, if there is one. Raises KeysFileError.

        forget: is called with the names that a new file leaves out.
        """
        self._forget = forget
        self._path = config.api_keys_file
        self._own = config.api_key
        self._secret = secrets.token_bytes(32)
        self._keys: list[tuple[bytes, ApiKey]] = []  # with what each is compared by
        self._anybody: ApiKey | None = None  # where no key is asked for
        self._use(self._read())

    @property
    def names(self) -> set[str]:
        """The names of the keys, none where they have no names."""
        return {key.account.name for _, key in self._keys if key.account.name}

    def find(self, offered: abc.Iterable[bytes]) -> ApiKey:
        """Return the key that one of `offered` is. Raises Unauthenticated.

        Each is compared with all keys, in a time that tells nothing of any of them.
        """
        if self._anybody is not None:
            return self._anybody
        digests = [self._digest(one) for one in offered]
        found = None
        for known, key in self._keys:
            for digest in digests:
                if hmac.compare_digest(digest, known):
                    found = key
        if found is None:
            raise Unauthenticated("invalid API key", reason="key", headers={"x-should-retry": "false"})
        return found

    def reload(self) -> None:
        """Read the file anew. A wrong file leaves the keys as they are, and is logged. May wait for the disk.

        Requests under way go on, and count for their key's limit.
        """
        names = self.names
        try:
            self._use(self._read())
        except KeysFileError as error:
            logger.error("the API keys stay as they are: %s", error)
            return
        self._forget(names - self.names)
        logger.warning("the API keys are read anew: %s", ", ".join(sorted(self.names)))

    def _read(self) -> list[NamedKey]:
        if self._path is None:
            return []
        if is_open_to_others(self._path):
            logger.warning("others on this machine may use %s, which has keys: `chmod 600` it", self._path)
        return read_keys_file(self._path)

    def _use(self, named: list[NamedKey]) -> None:
        """Let these keys in, and that of --api-key, which the file must not have. Raises KeysFileError."""
        if self._own is not None and any(one.name == DEFAULT_NAME or one.key == self._own for one in named):
            raise KeysFileError(f"--api-key is the key {DEFAULT_NAME!r}: the file must not have it as well")
        places = {key.account.name: key.places for _, key in self._keys}
        keys = [(self._digest(one.key.encode()), _named(one, places.get(one.name))) for one in named]
        if self._own is not None:
            own = ApiKey(digest=blake2b(self._own.encode(), digest_size=16).digest())
            if named:
                own = _named(NamedKey(DEFAULT_NAME, self._own, is_shared=True), places.get(DEFAULT_NAME))
            keys.append((self._digest(self._own.encode()), own))
        self._keys = keys
        self._anybody = None if keys else ApiKey()

    def _digest(self, key: bytes) -> bytes:
        """Return what keys are compared by: as long for each, and known to nobody else."""
        return blake2b(key, key=self._secret, digest_size=32).digest()


def _named(one: NamedKey, places: KeyPlaces | None) -> ApiKey:
    """Return a key with a name, with the places that are held of it."""
    digest = blake2b(one.name.encode(), digest_size=16, person=b"pensieve-key").digest()
    places = places or KeyPlaces()
    places.limit = one.concurrent
    return ApiKey(Account(one.name, one.share, b"" if one.is_shared else digest), digest, places)
