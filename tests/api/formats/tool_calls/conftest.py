import pytest

from pensieve.api.grammar.vocabulary import Vocabulary, make_vocabulary

from .known_formats import SPECIAL


@pytest.fixture(scope="module", params=[False, True], ids=["in letters", "tokens of their own"])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    """Bytes and a few tags, which are special tokens or not."""
    special_tokens = {text: 256 + i for i, text in enumerate(SPECIAL)} if request.param else {"<end>": 256}
    bytes_of = [bytes([byte]) for byte in range(256)] + [text.encode() for text in SPECIAL]
    vocabulary = make_vocabulary(bytes_of, special_tokens, {256})
    assert vocabulary is not None
    return vocabulary
