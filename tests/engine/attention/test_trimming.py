from itertools import product

import pytest

from pensieve.engine.attention.kernels.source import (
    APPEND,
    COMBINE,
    GATHER,
    SPLIT,
    TILES,
    Kernel,
    Language,
    header,
)
from pensieve.engine.attention.kernels.trimming import WORD, _items, _names, squeeze, trim
from pensieve.engine.attention.rotation import ROTATE

LANGUAGES: list[Language] = ["metal", "cuda", "cpp"]


@pytest.mark.parametrize(
    ("language", "kernel"), list(product(LANGUAGES, [SPLIT, COMBINE, TILES, APPEND, GATHER, ROTATE]))
)
def test_a_kernels_text_keeps_what_it_needs_and_little_else(language: Language, kernel: Kernel) -> None:
    definitions, body = header(language), squeeze(kernel.body(language))
    kept = trim(definitions, body)
    defined = {name for item in _items(squeeze(definitions)) for name in _names(item)}
    words, names = set(WORD.findall(kept + body)), {name for item in _items(kept) for name in _names(item)}
    assert names == defined & words
    assert trim(kept, body) == kept
    if kernel in (COMBINE, ROTATE):
        assert len(kept) < 800
        assert len(kept + body) < 3600


def test_definitions_are_found_whatever_their_form() -> None:
    """Macros of two lines, overloads, templates, structs and types; what nothing mentions is left out."""
    text = """
        #include <cmath>
        #define TWICE(x) \\
          ONCE(x) + ONCE(x)  // of two lines
        #define ONCE(x) (x)
        #define NEVER 3
        typedef long long WIDE;
        typedef int NARROW;
        template <typename T>
        struct alignas(sizeof(T) * 2) Pair {
          T low, high;

          T sum() { return low + high; }
        };
        struct Other { int x; };
        inline int add(int a, int b) { return a + b; }
        template <typename T>
        inline T add(T a, T b, T c) {
          return a + b + c;
        }
        inline int subtract(int a, int b) { return a - b; }
    """
    kept = trim(text, "WIDE x = add(TWICE(1), 2) + Pair<int>{1, 2}.sum();")
    assert [sorted(_names(item)) for item in _items(kept)] == [
        [],
        ["TWICE"],
        ["ONCE"],
        ["WIDE"],
        ["Pair"],
        ["add"],
        ["add"],
    ]
    assert "//" not in kept
