"""Keeps the token ids of texts that come again: a conversation's earlier turns, heads that sessions share."""

import threading
from collections import OrderedDict, abc
from collections.abc import Callable
from concurrent.futures import Future
from sys import getsizeof

Ids = tuple[int, ...]

Text = tuple[bytes, str]
"""A text of one space."""

MAX_BYTES = 64 * 2**20
"""Memory of a cache: 5 million tokens of English text, or 80 conversations of 60,000."""

ENTRY_BYTES = 300  # of an entry beside its text and its ids: objects, their places in the dictionary


class SegmentCache:
    """The texts tokenised last, up to a number of bytes, with their token ids. For several threads at once.

    A text that two threads ask for at the same time is tokenised once. The keys are the texts themselves and
    no hashes of them: two texts cannot be mistaken for one another.
    """

    def __init__(self, encode: Callable[[list[str]], list[list[int]]], max_bytes: int = MAX_BYTES) -> None:
        """encode: tokenises some texts, each by itself."""
        self._encode = encode
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._lock = threading.Lock()
        self._known: OrderedDict[Text, Ids] = OrderedDict()  # the latest used at the end
        self._pending: dict[Text, Future[dict[Text, Ids]]] = {}  # texts of one call have the same future
        # One object for each token id: all prompts refer to the same ones.
        self._ids: dict[int, int] = {}

    def encode(self, contents: abc.Sequence[str], space: bytes = b"") -> list[Ids]:
        """Return the token ids of each of `contents`. Raises what the tokenizer raises.

        space: what is known of one is tokenised anew for another, whom the time would tell that it is known.
        """
        texts = [(space, content) for content in contents]
        found: dict[Text, Ids] = {}
        awaited: dict[Text, Future[dict[Text, Ids]]] = {}
        new: list[Text] = []
        future: Future[dict[Text, Ids]] = Future()
        with self._lock:
            for text in dict.fromkeys(texts):
                if text in self._known:
                    self._known.move_to_end(text)
                    found[text] = self._known[text]
                elif text in self._pending:
                    awaited[text] = self._pending[text]
                else:
                    new.append(text)
                    self._pending[text] = future
        if new:
            found |= self._encode_new(new, future)  # before it waits for others, who may wait for these
        theirs = {text: other.result().get(text) for text, other in awaited.items()}
        found |= {text: ids for text, ids in theirs.items() if ids is not None}
        if failed := [text for text in theirs if text not in found]:
            found |= self._encode_each(failed)  # a text beside them may be the cause of the others' failure
        return [found[text] for text in texts]

    def _encode_new(self, new: list[Text], future: "Future[dict[Text, Ids]]") -> dict[Text, Ids]:
        """Tokenise and keep texts that nobody else tokenises; give them to those who wait for `future`.

        Those who wait get no ids where the tokenizer fails.
        """
        found: dict[Text, Ids] = {}
        try:
            found = self._encode_each(new)
        finally:
            future.set_result(found)
            with self._lock:
                for text in new:
                    del self._pending[text]
                self._keep(found)
        return found

    def _encode_each(self, texts: list[Text]) -> dict[Text, Ids]:
        encoded = self._encode([content for _, content in texts])
        return {text: self._shared(ids) for text, ids in zip(texts, encoded, strict=True)}

    def _keep(self, found: dict[Text, Ids]) -> None:
        for text, ids in found.items():
            self._known[text] = ids
            self._num_bytes += _num_bytes(text, ids)
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= _num_bytes(*self._known.popitem(last=False))

    def _shared(self, ids: list[int]) -> Ids:
        known = self._ids.setdefault
        return tuple([known(token, token) for token in ids])


def _num_bytes(text: Text, ids: Ids) -> int:
    return getsizeof(text[1]) + getsizeof(ids) + ENTRY_BYTES
