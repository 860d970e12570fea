"""Masked language modelling: some tokens given all the others."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from thetahat.core.batch import Batch, Inputs, Packed, Symbols
from thetahat.core.errors import ModelError
from thetahat.core.random import uniform
from thetahat.core.special import MASK
from thetahat.core.visibility import visibility_of
from thetahat.objective.config import Masked, ObjectiveConfig
from thetahat.objective.layout import padded_rows
from thetahat.objective.weights import counted_weights

_CHOICE, _REPLACE, _OTHER, _LENGTH = range(4)  # purposes of random numbers


def masked(
    packed: Packed, objective: ObjectiveConfig, choice: Masked, symbols: Symbols, row_length: int | None = None
) -> Batch:
    r"""$\sum_{j \in M} \log \Pr(x_j \mid x_{\setminus M})$ for a drawn set M of each piece, which is read whole.

    Of n tokens that may be targets $\max(1, \mathrm{round}(\mathrm{rate} \cdot n))$ are, or as many whole words or
    spans as reach that number. Special tokens, prompts and tokens of weight 0 are never masked. With `80-10-10` a
    masked token is read as <|mask|> with probability 0.8, as any token of text with 0.1 and as itself with 0.1.

    Devlin et al., BERT, 2019 (arXiv 1810.04805); Joshi et al., SpanBERT, 2020 (spans); Wettig et al., 2023 (rates).
    """
    is_masked = draw_masked(packed, choice, symbols)
    return read_whole(packed, objective, is_masked, _replaced(packed, is_masked, choice, symbols), row_length)


def pseudo(
    packed: Packed, objective: ObjectiveConfig, symbols: Symbols, num_passes: int, row_length: int | None = None
) -> Iterator[Batch]:
    r"""Each token once, given the others: pass p masks every token whose number in its piece is p modulo `num_passes`.

    With as many passes as a piece has tokens (0 stands for that) it is the pseudo-log-likelihood
    $\sum_j \log \Pr(x_j \mid x_{\setminus j})$ of Salazar et al., Masked Language Model Scoring, 2020 (arXiv
    1910.14659); with fewer, tokens that are masked together do not see each other. It is no likelihood of the text.
    """
    free = maskable(packed, symbols)
    number = _number_within_piece(packed, free)
    longest = int(number[free].max()) + 1 if bool(free.any()) else 0
    for index in range(min(num_passes or longest, longest)):
        is_masked = free & (number % (num_passes or longest) == index)
        tokens = torch.where(is_masked, mask_of(symbols), packed.tokens)
        yield read_whole(packed, objective, is_masked, tokens, row_length)


def mask_of(symbols: Symbols) -> int:
    """The id of <|mask|>; raises ModelError where the vocabulary has none."""
    if symbols.mask is None:
        raise ModelError(
            f"the vocabulary has no {MASK}, which a masked model reads in place of its targets",
            cure=f"data.tokenizer=none trains one that has it; or add {MASK} to the special tokens of yours",
        )
    return symbols.mask


def maskable(packed: Packed, symbols: Symbols) -> Bool[Tensor, " N"]:
    """Which tokens may be masked: those of text that has a loss weight."""
    return (packed.weight != 0) & ~packed.is_prompt & ~symbols.is_special[packed.tokens]


def draw_masked(packed: Packed, choice: Masked, symbols: Symbols) -> Bool[Tensor, " N"]:
    """Which tokens are masked: in each piece the units with the smallest random numbers, until they are enough."""
    free = maskable(packed, symbols)
    count = torch.zeros(len(packed.row), dtype=torch.int64).index_add_(0, packed.piece, free.long())
    wanted = torch.where(count > 0, (choice.rate * count.double()).round().long().clamp(min=1), 0)
    unit = _units(packed, free, choice, symbols)
    drawn = uniform(packed.seed[packed.piece], 4 * unit + _CHOICE)
    # units in the order of their numbers, piece by piece; a unit is taken while those before it are not enough
    key = torch.where(free, drawn, 2.0)
    order = torch.argsort(unit, stable=True)
    order = order[torch.argsort(key[order], stable=True)]
    order = order[torch.argsort(packed.piece[order], stable=True)]
    offset = _through_pieces(packed, unit)
    ordered, is_free = offset[order], free[order]
    before = is_free.long().cumsum(0) - is_free.long()  # free tokens before this one, in all pieces
    starts = torch.zeros(len(packed.row), dtype=torch.int64)
    starts[1:] = count.cumsum(0)[:-1]
    num_units = int(offset[-1]) + 1 if len(offset) else 0
    first_of_unit = torch.full((num_units,), len(order)).scatter_reduce_(0, ordered, before, "amin")
    taken = first_of_unit[offset] - starts[packed.piece] < wanted[packed.piece]
    return free & taken


def _units(packed: Packed, free: Bool[Tensor, " N"], choice: Masked, symbols: Symbols) -> Int[Tensor, " N"]:
    """The number, within its piece, of the unit that each token belongs to."""
    match choice.unit:
        case "token":
            begins = torch.ones_like(free)
        case "word":
            begins = symbols.begins_word[packed.tokens].clone()
        case "span":  # a span ends after each token with probability 1 / mean: geometric lengths
            place = _number_within_piece(packed, torch.ones_like(free))
            ends = uniform(packed.seed[packed.piece], 4 * place + _LENGTH) < 1 / choice.mean_span
            begins = torch.ones_like(free)
            begins[1:] = ends[:-1]
    begins[1:] |= (packed.piece[1:] != packed.piece[:-1]) | ~free[1:] | ~free[:-1]
    if len(begins):
        begins[0] = True
    return _number_within_piece(packed, begins, including=True)


def _through_pieces(packed: Packed, unit: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """The number of each token's unit, counted over all pieces."""
    changes = torch.ones_like(unit, dtype=torch.bool)
    changes[1:] = (unit[1:] != unit[:-1]) | (packed.piece[1:] != packed.piece[:-1])
    return changes.long().cumsum(0) - 1


def _number_within_piece(packed: Packed, counted: Bool[Tensor, " N"], *, including: bool = False) -> Int[Tensor, " N"]:
    """How many counted tokens stand before each token in its piece; with `including`, it counts itself, minus one."""
    through = counted.long().cumsum(0)
    before = through - counted.long()
    starts = torch.full((len(packed.row),), len(counted)).scatter_reduce_(0, packed.piece, before, "amin")
    return (through - 1 if including else before) - starts[packed.piece]


def _replaced(packed: Packed, is_masked: Bool[Tensor, " N"], choice: Masked, symbols: Symbols) -> Int[Tensor, " N"]:
    """The tokens that are read, with masked ones replaced."""
    mask = torch.full_like(packed.tokens, mask_of(symbols))
    if choice.replace == "80-10-10":
        place = _number_within_piece(packed, torch.ones_like(is_masked))
        seed = packed.seed[packed.piece]
        kind, other = uniform(seed, 4 * place + _REPLACE), uniform(seed, 4 * place + _OTHER)
        plain = (~symbols.is_special).nonzero()[:, 0]
        mask = torch.where(kind < 0.8, mask, torch.where(kind < 0.9, plain[(other * len(plain)).long()], packed.tokens))
    return torch.where(is_masked, mask, packed.tokens)


def read_whole(
    packed: Packed,
    objective: ObjectiveConfig,
    is_masked: Bool[Tensor, " N"],
    tokens: Int[Tensor, " N"],
    row_length: int | None,
) -> Batch:
    """Every token is read, and at the place of each masked one the original token is the target."""
    num_rows = int(packed.row[-1]) + 1 if len(packed.row) else 0
    rows = padded_rows(packed.row[packed.piece], num_rows, row_length)
    weights = torch.where(is_masked, counted_weights(packed, objective), 0.0)
    visibility = visibility_of(rows.lay(packed.piece, -1), is_causal=False)
    return Batch(
        inputs=Inputs(rows.lay(tokens, 0), rows.lay(packed.position, 0), visibility),
        targets=rows.lay(packed.tokens, 0),
        weights=rows.lay(weights, 0),
        part=rows.lay(packed.part, 0),
        origin=rows.lay(torch.arange(len(packed.tokens)), 0),
        num_bytes=rows.lay(packed.num_bytes, 0),
        parts=packed.parts,
        supervised=rows.places(weights != 0),
    )
