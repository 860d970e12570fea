"""The rows on which `objective_table.py` compares objectives: seeded, of unequal length, free of any library."""

import random

VOCABULARY = 100
PAD, END, MASK = 0, 1, 2  # the other ids are words
LENGTHS = (3, 40)  # tokens of a row, both ends included
KINDS = ("encoder-only", "decoder-only", "encoder-decoder")


def _words(draw: random.Random) -> list[int]:
    return [draw.randrange(MASK + 1, VOCABULARY) for _ in range(draw.randint(*LENGTHS) - 1)] + [END]


def decoder_rows(count: int, seed: int) -> list[list[int]]:
    """Rows of token ids; every token but the first is a target."""
    draw = random.Random(seed)
    return [_words(draw) for _ in range(count)]


def masked_rows(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Rows as (tokens before they are masked, positions whose token is replaced by `MASK` and is a target)."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        tokens = _words(draw)
        masked = draw.randint(1, max(1, len(tokens) // 3))
        rows.append((tokens, sorted(draw.sample(range(len(tokens)), masked))))
    return rows


def pair_rows(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Rows as (source, target); every token of the target is one."""
    draw = random.Random(seed)
    return [(_words(draw), _words(draw)) for _ in range(count)]
