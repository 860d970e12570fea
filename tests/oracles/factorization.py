"""What each factorization reads, asks and shows to whom, piece by piece and token by token, from its definition."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.oracles.splitmix import uniform

Place = tuple[int, int]  # (piece, which of the tokens that it reads)


@dataclass(frozen=True)
class Piece:
    """One piece, its tokens with all that is known of each."""

    tokens: Sequence[int]
    weight: Sequence[float]  # what predicting the token counts for, normalised
    is_prompt: Sequence[bool]
    part: Sequence[int]
    place: int  # of the first token among those of all pieces
    row: int = 0
    parent: int = -1
    seed: int = 0
    position: int = 0  # of the first token
    has_prompt: bool = False  # its record, wherever it lies


class Question(NamedTuple):
    target: int
    weight: float
    part: int
    origin: int


class Entry(NamedTuple):
    """What happens at one position."""

    row: int
    token: int
    position: int
    sees: frozenset[Place]
    question: Question | None = None  # None: it is asked nothing
    given: frozenset[Place] | None = None  # what it sees of the source


class Vocabulary(NamedTuple):
    special: frozenset[int]
    begins_word: frozenset[int]
    size: int
    end: int
    mask: int
    sentinels: tuple[int, ...]


def counted_weight(weight: float, counts: tuple[int, int, int], normalization: str, exponent: float) -> float:
    """By what a token of this weight counts, in a part of `counts` = (its tokens, its record's tokens and parts)."""
    num_tokens, record_tokens, record_parts = counts
    divisors = {
        "token": 1,
        "sum": 1,
        "sequence": record_tokens,
        "turn": num_tokens,
        "dialogue": num_tokens * record_parts,
        "length": record_tokens**exponent,
    }
    return weight / divisors[normalization]


def concentration(weights: Sequence[float]) -> tuple[float, float]:
    """(Kish's effective number, the share of the heaviest 1 %)."""
    total = squares = top = 0.0
    for weight in weights:
        total += weight
        squares += weight * weight
    for place, weight in enumerate(sorted(weights, reverse=True)):
        top += min(max(len(weights) / 100 - place, 0), 1) * weight
    return total * total / squares, top / total


def causal(pieces: Sequence[Piece]) -> dict[Place, Entry]:
    """Read a token, asked for the next; what the piece has read so far is seen, and all that its ancestors read."""
    return {
        (p, k): _entry(piece, k, k + 1, {(p, j) for j in range(k + 1)} | _ancestors(pieces, p))
        for p, piece in enumerate(pieces)
        for k in range(len(piece.tokens) - 1)
    }


def prefix(pieces: Sequence[Piece], *, draws: bool = True) -> dict[Place, Entry]:
    """As causal, but the prompt is seen from everywhere in its piece, and not asked."""
    entries = causal(pieces)
    for (p, k), entry in entries.items():
        if pieces[p].parent < 0:
            size = prompt_size(pieces[p], draws=draws)
            prompt = {(p, j) for j in range(min(size, len(pieces[p].tokens) - 1))}
            question = entry.question if k + 1 >= size else None
            entries[p, k] = entry._replace(sees=entry.sees | prompt, question=question)
    return entries


def prompt_size(piece: Piece, *, draws: bool) -> int:
    """How many tokens stand before the first answer; the first token is none. Without a prompt, a drawn number or 0.

    Where the record has a prompt that does not lie in this piece it is 0.
    """
    if any(piece.is_prompt):
        size = 1
        while size < len(piece.tokens) and piece.is_prompt[size]:
            size += 1
        return size
    return 1 + int(uniform(piece.seed, 0) * (len(piece.tokens) - 1)) if draws and not piece.has_prompt else 0


def infilling(
    pieces: Sequence[Piece], rate: float, sentinels: tuple[int, int, int], end: int
) -> tuple[list[Piece], list[list[int]]]:
    """Prefix, suffix, middle behind their sentinels, where they are drawn; and which token of the piece each was."""
    moved, places = [], []
    for p, piece in enumerate(pieces):
        numbers = list(range(len(piece.tokens)))
        branches = piece.parent >= 0 or any(other.parent == p for other in pieces)
        given = piece.has_prompt or any(piece.is_prompt)
        order: list[tuple[int | None, int]] = [(None, j) for j in numbers]
        if not branches and not given and uniform(piece.seed, 0) < rate:
            closes = len(numbers) > 1 and piece.tokens[-1] == end
            text = numbers[1 : len(numbers) - closes]
            a, b = sorted(int(uniform(piece.seed, draw) * (len(text) + 1)) for draw in (1, 2))
            order = [(None, 0)]
            for sentinel, part in zip(sentinels, (text[:a], text[b:], text[a:b]), strict=True):
                order += [(sentinel, 0), *((None, j) for j in part)]
            order += [(None, numbers[-1])] if closes else []
        tokens = [piece.tokens[j] if sentinel is None else sentinel for sentinel, j in order]
        weight = [piece.weight[j] if sentinel is None else 0.0 for sentinel, j in order]
        part = [piece.part[j] for _, j in order]
        moved.append(replace(piece, tokens=tokens, weight=weight, part=part))
        places.append([piece.place + j for _, j in order])
    return moved, places


def conditional(pieces: Sequence[Piece]) -> tuple[dict[Place, Entry], dict[Place, Entry]]:
    """(what the encoder reads, what the decoder is asked): roots are read whole, all others see theirs."""
    sources, targets = {}, {}
    for p, piece in enumerate(pieces):
        if piece.parent < 0:
            for k in range(len(piece.tokens)):
                sees = {(p, j) for j in range(len(piece.tokens))}
                sources[p, k] = _entry(piece, k, None, sees)
        else:
            given = frozenset((piece.parent, j) for j in range(len(pieces[piece.parent].tokens)))
            for k in range(len(piece.tokens) - 1):
                sees = {(p, j) for j in range(k + 1)}
                targets[p, k] = _entry(piece, k, k + 1, sees)._replace(given=given)
    return sources, targets


def labels(pieces: Sequence[Piece]) -> dict[Place, Entry]:
    """All but the last token is read at once; the first position is asked for the last token."""
    entries = {}
    for p, piece in enumerate(pieces):
        num_read = len(piece.tokens) - 1
        for k in range(num_read):
            entries[p, k] = _entry(piece, k, num_read if k == 0 else None, {(p, j) for j in range(num_read)})
    return entries


def masked(pieces: Sequence[Piece], chosen: Sequence[set[int]], read: Sequence[Sequence[int]]) -> dict[Place, Entry]:
    """All is read at once, as `read`; at the `chosen` places the token that stood there is asked."""
    entries = {}
    for p, piece in enumerate(pieces):
        for k in range(len(piece.tokens)):
            sees = {(p, j) for j in range(len(piece.tokens))}
            entries[p, k] = _entry(piece, k, k if k in chosen[p] else None, sees)._replace(token=read[p][k])
    return entries


def maskable(piece: Piece, vocabulary: Vocabulary) -> list[bool]:
    return [
        weight != 0 and not is_prompt and token not in vocabulary.special
        for token, weight, is_prompt in zip(piece.tokens, piece.weight, piece.is_prompt, strict=True)
    ]


def units(piece: Piece, unit: str, mean_span: float, vocabulary: Vocabulary) -> list[list[int]]:
    """The places of a piece, in the units that are masked together; what is not masked is a unit of its own."""
    free, found = maskable(piece, vocabulary), []
    for k, token in enumerate(piece.tokens):
        begins = k == 0 or not free[k] or not free[k - 1] or unit == "token"
        begins = begins or (unit == "word" and token in vocabulary.begins_word)
        begins = begins or (unit == "span" and uniform(piece.seed, 4 * (k - 1) + 3) < 1 / mean_span)
        if begins:
            found.append([])
        found[-1].append(k)
    return found


def chosen(piece: Piece, rate: float, unit: str, mean_span: float, vocabulary: Vocabulary) -> set[int]:
    """Units in the order of their numbers, until as many tokens are chosen as the rate says, and at least one."""
    free, found = maskable(piece, vocabulary), set()
    wanted = max(1, round(rate * sum(free)))
    numbered = [
        (uniform(piece.seed, 4 * number), one) for number, one in enumerate(units(piece, unit, mean_span, vocabulary))
    ]
    for _, places in sorted(numbered):
        if free[places[0]] and len(found) < wanted:
            found |= set(places)
    return found


def replaced(piece: Piece, chosen: set[int], replace: str, vocabulary: Vocabulary) -> list[int]:
    """What is read in place of the chosen tokens."""
    plain = [token for token in range(vocabulary.size) if token not in vocabulary.special]
    read = list(piece.tokens)
    for k in chosen:
        kind = uniform(piece.seed, 4 * k + 1) if replace == "80-10-10" else 0.0
        if kind < 0.8:
            read[k] = vocabulary.mask
        elif kind < 0.9:
            read[k] = plain[int(uniform(piece.seed, 4 * k + 2) * len(plain))]
    return read


def span_counts(size: int, rate: float, mean_span: float) -> tuple[int, int]:
    """Of `size` tokens, (how many are left out, in how many spans)."""
    if size < 2:
        return size, size
    num_left_out = min(max(round(rate * size), 1), size - 1)
    return num_left_out, max(min(round(num_left_out / mean_span), size - num_left_out), 1)


def left_out(piece: Piece, rate: float, mean_span: float, vocabulary: Vocabulary) -> set[int]:
    """The places of what is left out: of those that may be, some are kept, some left out, some kept, and so on."""
    places = [k for k, free in enumerate(maskable(piece, vocabulary)) if free]
    num_left_out, num_spans = span_counts(len(places), rate, mean_span)
    num_kept = len(places) - num_left_out

    def lengths(low: int, high: int) -> list[int]:
        """Of `num_spans` stretches of the numbers low to high: cut before the smallest drawn, but not before low."""
        drawn = sorted((uniform(piece.seed, number), number) for number in range(low + 1, high))
        begins = {low, *(number for _, number in drawn[: num_spans - 1])}
        found: list[int] = []
        for number in range(low, high):
            if number in begins:
                found.append(0)
            found[-1] += 1
        return found

    kept, lost = lengths(0, num_kept) or [0], lengths(num_kept, len(places))
    found, at = set[int](), 0
    for length, gone in zip(kept, lost, strict=True) if places else ():
        found |= set(places[at + length : at + length + gone])
        at += length + gone
    return found


def spans(piece: Piece, chosen: set[int], vocabulary: Vocabulary) -> tuple[list[int], list[tuple[int, int | None]]]:
    """(the source, the target: tokens, each with the place in the piece that it weighs for, None where not asked)."""
    source: list[int] = []
    target: list[tuple[int, int | None]] = [(vocabulary.end, None)]
    num_spans = 0
    for k, token in enumerate(piece.tokens):
        if k not in chosen:
            source.append(token)
            continue
        if k - 1 not in chosen:
            source.append(vocabulary.sentinels[num_spans])
            target.append((vocabulary.sentinels[num_spans], k))
            num_spans += 1
        target.append((token, k))
    return source, [*target, (vocabulary.end, max(chosen, default=None))]


def _entry(piece: Piece, reads: int, answer: int | None, sees: set[Place]) -> Entry:
    question = None
    if answer is not None and piece.weight[answer] != 0:
        question = Question(piece.tokens[answer], piece.weight[answer], piece.part[answer], piece.place + answer)
    return Entry(piece.row, piece.tokens[reads], piece.position + reads, frozenset(sees), question)


def _ancestors(pieces: Sequence[Piece], p: int) -> set[Place]:
    """All that the ancestors of a piece read."""
    found: set[Place] = set()
    while pieces[p].parent >= 0:
        p = pieces[p].parent
        found |= {(p, j) for j in range(len(pieces[p].tokens) - 1)}
    return found
