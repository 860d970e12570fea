"""Random packed layouts, as the package takes them and as the oracle does, and batches in the oracle's terms."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from hypothesis import strategies as st

from tests.examples import packed_of, parts_of
from tests.oracles.factorization import Entry, Piece, Place, Question, Vocabulary, counted_weight
from thetahat.core import special
from thetahat.core.batch import Batch, Inputs, Packed, Symbols
from thetahat.core.special import Frame, Frames
from thetahat.objective.config import ObjectiveConfig

SIZE = 24
END, MASK, SENTINELS = 0, 1, (2, 3, 4, 5)
SPECIAL = frozenset({END, MASK, *SENTINELS, 23})
BEGINS_WORD = SPECIAL | frozenset(range(6, 15))
VOCABULARY = Vocabulary(SPECIAL, BEGINS_WORD, SIZE, END, MASK, SENTINELS)
SYMBOLS = Symbols(
    vocab_size=SIZE,
    frames=Frames(Frame((END,), (END,)), Frame((END,)), Frame((END,), (END,))),
    is_special=torch.tensor([token in SPECIAL for token in range(SIZE)]),
    begins_word=torch.tensor([token in BEGINS_WORD for token in range(SIZE)]),
    special={special.MASK: MASK, **{special.SENTINEL.format(i): id for i, id in enumerate(SENTINELS)}},
)

OBJECTIVES = st.builds(
    ObjectiveConfig,
    normalization=st.sampled_from(["token", "sequence", "turn", "dialogue", "length", "sum"]),
    length_exponent=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
WIDTHS = st.sampled_from([None, 3, 80])


@dataclass(frozen=True)
class Layout:
    """Pieces by hand. Only tests make the package's own values of them: to check these, random numbers are drawn."""

    drawn: list[Piece]
    counts: list[tuple[int, int, int]]  # of each part: its tokens, its record's tokens and parts
    objective: ObjectiveConfig
    has_prompt: tuple[bool, ...] = (False,) * 3  # of each part: its record

    @cached_property
    def pieces(self) -> list[Piece]:
        """With the weights that they have under the objective."""
        normalization, exponent = self.objective.normalization, self.objective.length_exponent
        counted = [
            [counted_weight(w, self.counts[part], normalization, exponent) for w, part in zip(*both, strict=True)]
            for both in ((piece.weight, piece.part) for piece in self.drawn)
        ]
        return [
            replace(piece, weight=weight, has_prompt=any(self.has_prompt[part] for part in piece.part))
            for piece, weight in zip(self.drawn, counted, strict=True)
        ]

    @cached_property
    def packed(self) -> Packed:
        """The same as the package takes it."""
        return packed_of(
            [piece.tokens for piece in self.drawn],
            [piece.weight[1:] for piece in self.drawn],
            [piece.row for piece in self.drawn],
            prompts=[piece.is_prompt for piece in self.drawn],
            parents=[piece.parent for piece in self.drawn],
            starts=[piece.position for piece in self.drawn],
            seeds=[piece.seed for piece in self.drawn],
            part=[piece.part for piece in self.drawn],
            parts=parts_of(*zip(*self.counts, strict=True), self.has_prompt),
        )


@st.composite
def layouts(draw, *, has_trees=False, has_prompts=True, prompts_weigh=False, longest=9):
    """One to six pieces in one or more rows, each token of one of three parts of whatever counts.

    Where a piece has a parent it begins with the parent's last token, at the same position.
    """
    counts = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 5))
    pieces, place = [], 0
    for p in range(draw(st.integers(1, 6))):
        row = pieces[-1].row + draw(st.integers(0, 1)) if pieces else 0
        mates = [q for q in range(p) if pieces[q].row == row]
        parent = draw(st.sampled_from([-1, *mates])) if has_trees else -1
        pieces.append(_piece(draw, pieces, row, parent, place, (has_prompts, prompts_weigh, longest)))
        place += len(pieces[-1].tokens)
    has_prompt = st.tuples(*(st.booleans(),) * 3) if has_prompts else st.just((False,) * 3)
    return Layout(pieces, draw(st.lists(counts, min_size=3, max_size=3)), draw(OBJECTIVES), draw(has_prompt))


def _piece(draw, before, row, parent, place, rules) -> Piece:
    has_prompts, prompts_weigh, longest = rules
    length = draw(st.integers(1 if parent < 0 else 2, longest))
    tokens = draw(st.lists(st.integers(0, SIZE - 1), min_size=length, max_size=length))
    weight = draw(st.lists(st.sampled_from([1.0, 0.0, 0.25, 3.0]), min_size=length, max_size=length))
    flags = st.one_of(
        st.lists(st.booleans(), min_size=length, max_size=length),
        st.integers(0, length).map(lambda size: [j < size for j in range(length)]),
        st.just([False] * length),
    )
    is_prompt = draw(flags) if has_prompts else [False] * length
    if not prompts_weigh:
        weight = [0.0 if prompt else one for one, prompt in zip(weight, is_prompt, strict=True)]
    position = 0
    if parent >= 0:
        tokens[0] = before[parent].tokens[-1]
        position = before[parent].position + len(before[parent].tokens) - 1
    part = draw(st.lists(st.integers(0, 2), min_size=length, max_size=length))
    seed = draw(st.integers(0, 2**63 - 1))
    return Piece(tokens, [0.0, *weight[1:]], is_prompt, part, place, row, parent, seed, position)


def written_out(batch: Batch) -> dict[Place, Entry]:
    """What a batch reads, shows and asks, by piece; whatever must hold of any batch is checked on the way."""
    entries = read_by(batch.inputs)
    slots = slots_of(batch.inputs)
    source = batch.inputs.source
    given = None if source is None else source.mask()
    supervised = []
    for (row, column), place in slots.items():
        weight = float(batch.weights[row, column])
        if weight:
            supervised.append(row * batch.targets.shape[1] + column)
            question = [int(values[row, column]) for values in (batch.targets, batch.part, batch.origin)]
            entries[place] = entries[place]._replace(question=Question(question[0], weight, *question[1:]))
        if given is not None:
            seen = frozenset(
                there for (other, s), there in slots_of(source.inputs).items() if other == row and given[row, column, s]
            )
            entries[place] = entries[place]._replace(given=seen)
    found = None if batch.supervised is None else batch.supervised.tolist()
    assert (None if len(supervised) == len(slots) else supervised) == found
    is_padding = batch.inputs.visibility.piece < 0
    assert not batch.weights[is_padding].any()
    assert batch.targets[is_padding].eq(0).all()
    assert given is None or given[is_padding].all()
    return entries


def slots_of(inputs: Inputs) -> dict[tuple[int, int], Place]:
    """(row, column) to (piece, which of the tokens that it reads)."""
    slots, seen = {}, {}
    for row, pieces in enumerate(inputs.visibility.piece.tolist()):
        for column, piece in enumerate(pieces):
            if piece >= 0:
                slots[row, column] = (piece, seen.get(piece, 0))
                seen[piece] = seen.get(piece, 0) + 1
    return slots


def read_by(inputs: Inputs) -> dict[Place, Entry]:
    """What is read where, and who sees it."""
    slots, mask = slots_of(inputs), inputs.visibility.mask()
    entries = {}
    for (row, column), place in slots.items():
        if inputs.visibility.is_plain and inputs.visibility.is_causal:  # then attention looks at no mask
            assert mask[row, column].tolist() == [j <= column for j in range(mask.shape[-1])]
        columns = mask[row, column].nonzero()[:, 0].tolist()
        sees = frozenset(slots[row, j] for j in columns)  # a KeyError here: it sees padding
        token, position = int(inputs.tokens[row, column]), int(inputs.position[row, column])
        entries[place] = Entry(row, token, position, sees)
    return entries
