"""Random text of made-up words, from a seed. Knows nothing of requests or models.

The words have two or three syllables, as `pade kamoti`. The random model's vocabulary is made of the same
syllables, so that a token is three to four characters, as it is for real text and real models.
"""

import random

CONSONANTS = "bcdfghjklmnprstvwyzq"
VOWELS = "aeiou"


def word(rng: random.Random) -> str:
    """Draw a word of two or three syllables."""
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 3)))


def words(rng: random.Random, length: int) -> str:
    """Draw exactly `length` characters of words and spaces."""
    text = ""
    while len(text) < length:
        text += word(rng) + " "
    return text[:length]
