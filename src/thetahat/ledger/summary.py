"""The likelihood of the rows of a ledger: exact sums, each divided once, with an interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thetahat.core.errors import DataError
from thetahat.core.plain import counted, fields_as_json
from thetahat.ledger.classification import Classification, classification_of
from thetahat.ledger.ledger import Block, LedgerRow
from thetahat.statistics.interval import (
    BLOCK_TOKENS,
    MIN_DOCUMENTS,
    Interval,
    bits_per_byte_interval,
    exact_sum,
    ratio_interval,
    sum_by,
)

BLOCKS = f"blocks of {BLOCK_TOKENS:,} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How likely a set of documents is, and how sure that is. The targets of a classifier are labels, not tokens."""

    num_documents: int
    num_tokens: int
    num_bytes: int
    log_likelihood: float  # nats, <= 0
    nats_per_token: float
    bits_per_byte: float | None  # None: of labels, behind which no text stands
    perplexity: float
    nats_per_token_ci95: tuple[float, float] | None
    bits_per_byte_ci95: tuple[float, float] | None
    perplexity_ci95: tuple[float, float] | None
    interval_unit: str  # "documents" or "blocks of 1,024 tokens"
    num_interval_units: int  # that the intervals rest on
    lossless: bool  # whether the tokens tell all of the text; else bits per byte are a lower bound
    unknown_tokens: int  # which stand for what the vocabulary lacks
    unknown_bytes: int  # of text, behind these
    classification: Classification | None = None  # of labels: how often the likeliest is the right one

    @property
    def value(self) -> float:
        """What models of one kind are told apart by, the less the better: bits per byte, or nats per label."""
        return self.nats_per_token if self.bits_per_byte is None else self.bits_per_byte

    @property
    def unit(self) -> str:
        """The unit of `value`."""
        return "nats per label" if self.bits_per_byte is None else "bits per byte"

    @property
    def value_ci95(self) -> tuple[float, float] | None:
        """The interval of `value`."""
        return self.nats_per_token_ci95 if self.bits_per_byte is None else self.bits_per_byte_ci95

    @property
    def caution(self) -> str | None:
        """A warning where the intervals are rough, None where they are not."""
        if self.nats_per_token_ci95 is None or self.num_interval_units >= MIN_DOCUMENTS:
            return None
        count = count_of(self.num_interval_units, self.interval_unit)
        return f"the intervals rest on {count}, fewer than {MIN_DOCUMENTS}: they are rough"

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints: a number that is not finite is a string, an interval that is not there is null."""
        found = {
            name: one for name, one in fields_as_json(self).items() if name not in ("interval_unit", "classification")
        }
        if self.classification is None:
            return found
        kept = {_OF_LABELS.get(name, name): found[name] for name in found if name not in _OF_TEXT}
        return kept | self.classification.brief()


_OF_LABELS = {
    "num_tokens": "num_labels",
    "nats_per_token": "nats_per_label",
    "nats_per_token_ci95": "nats_per_label_ci95",
}
"""Names of the numbers of a classifier, whose targets are labels."""

_OF_TEXT = {
    *("num_bytes", "bits_per_byte", "bits_per_byte_ci95", "perplexity", "perplexity_ci95"),
    *("lossless", "unknown_tokens", "unknown_bytes"),
}
"""Numbers that labels have not."""


def summarize(rows: Sequence[LedgerRow]) -> Summary:
    r"""The likelihood of all rows together: exact sums, each divided once.

    $\log L = \sum_i \log \Pr_i$, nats per token $-\log L / \sum_i \text{tokens}_i$, perplexity its exponential, and
    bits per byte $-\log L / (\ln 2 \sum_i \text{bytes}_i)$, each with a 95% interval over `interval_units`. Rows of a
    classifier have nats per label, and how often the likeliest label is the right one.
    """
    num_tokens, num_bytes = sum(row.num_tokens for row in rows), sum(row.num_bytes for row in rows)
    if num_tokens == 0:
        raise DataError("nothing was scored: no row has a token", cure="look at the data: each document needs a token")
    log_likelihood = exact_sum(row.log_prob for row in rows)
    nats_per_token = -log_likelihood / num_tokens
    unit, units = interval_units(rows)
    classification = classification_of(rows)
    nats = [-block.log_prob for block in units]
    per_token = _ends(ratio_interval(nats, [block.num_tokens for block in units]))
    per_byte = bits_per_byte_interval([-some for some in nats], [block.num_bytes for block in units])
    return Summary(
        num_documents=len({row.document for row in rows}),
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        log_likelihood=log_likelihood,
        nats_per_token=nats_per_token,
        bits_per_byte=None if classification else _bits_per_byte(log_likelihood, num_bytes),
        perplexity=_exp(nats_per_token),
        nats_per_token_ci95=per_token,
        bits_per_byte_ci95=None if classification else _ends(per_byte),
        perplexity_ci95=per_token and (_exp(per_token[0]), _exp(per_token[1])),
        interval_unit=unit,
        num_interval_units=len(units),
        lossless=all(row.is_lossless for row in rows),
        unknown_tokens=sum(row.num_unknown for row in rows),
        unknown_bytes=sum(row.unknown_bytes for row in rows),
        classification=classification,
    )


def _bits_per_byte(log_likelihood: float, num_bytes: int) -> float:
    return -log_likelihood / math.log(2) / num_bytes if num_bytes else math.inf


def count_of(number: int, units: str) -> str:
    """A number of units, whose name begins with a plural: "1 block of 1,024 tokens", "20 documents"."""
    noun, blank, rest = units.partition(" ")
    return counted(number, noun.removesuffix("s") + blank + rest, units)


def _ends(interval: Interval) -> tuple[float, float] | None:
    """None if there are too few units. The low end is at least 0, since a log-probability is at most 0."""
    return None if math.isnan(interval.low) else (max(interval.low, 0.0), interval.high)


def interval_units(rows: Sequence[LedgerRow]) -> tuple[str, list[Block]]:
    """What an interval takes as independent, and its name: documents if there are 30, else blocks of 1,024 tokens."""
    documents = [row.document for row in rows]
    if len(set(documents)) >= MIN_DOCUMENTS:
        sums = [sum_by(documents, [getattr(row, name) for row in rows]).tolist() for name in Block._fields]
        return "documents", [Block(int(tokens), int(size), nats) for tokens, size, nats in zip(*sums, strict=True)]
    return BLOCKS, joined_blocks(rows)


def joined_blocks(rows: Sequence[LedgerRow]) -> list[Block]:
    """Blocks; short ones of one document are joined until they hold BLOCK_TOKENS. None if a long row has no blocks."""
    if any(row.num_tokens > BLOCK_TOKENS and not row.blocks for row in rows):
        return []
    open_blocks: dict[str, list[Block]] = {}
    closed: list[list[Block]] = []
    for row in rows:
        for block in row.blocks or (Block(row.num_tokens, row.num_bytes, row.log_prob),):
            gathered = open_blocks.setdefault(row.document, [])
            gathered.append(block)
            if sum(part.num_tokens for part in gathered) >= BLOCK_TOKENS:
                closed.append(open_blocks.pop(row.document))
    return [_join(blocks) for blocks in [*closed, *open_blocks.values()]]


def _join(blocks: Sequence[Block]) -> Block:
    return Block(
        sum(block.num_tokens for block in blocks),
        sum(block.num_bytes for block in blocks),
        exact_sum(block.log_prob for block in blocks),
    )


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
