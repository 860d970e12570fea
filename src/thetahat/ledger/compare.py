"""Which of two models makes the same data more likely, where, and how sure that is.

A positive number is always in favour of B: nats that B gives more, bits that B saves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thetahat.core.errors import DataError
from thetahat.core.plain import counted, fields_as_json
from thetahat.ledger.classification import classification_of
from thetahat.ledger.pairing import WHOLE, Pair, Scored, is_one_tokenizer, pair_rows, said_policy
from thetahat.ledger.summary import BLOCKS, count_of, joined_blocks
from thetahat.statistics.interval import MIN_DOCUMENTS, Interval, exact_sum, ratio_interval, sum_by
from thetahat.statistics.paired import bootstrap_interval, holm, sign_flip_p_value, wilson_interval

NOT_SAID = "(not said)"
OF_ONE_DOCUMENT = f"{BLOCKS} of one document"
FEW_DOCUMENTS = 200  # with fewer, a bootstrap interval is given beside the t-interval
LIMIT = 0.05
_BITS = 1 / math.log(2)


class Rate(NamedTuple):
    """A difference per token or per byte."""

    interval: Interval  # of the ratio of sums
    bootstrap: Interval | None  # where documents are few
    by_unit: NDArray[np.float64]  # of the documents (or blocks of one) that have a token or byte

    @property
    def median(self) -> float:
        """The median over documents, or over the blocks of one."""
        return float(np.median(self.by_unit))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much more likely B makes some documents than A does."""

    num_documents: int
    num_units: int  # what the interval and the p-value take as independent
    interval_unit: str  # "documents", or "blocks of 1,024 tokens of one document"
    num_tokens: int | None  # None where the tokenizers differ
    num_bytes: int
    log_likelihood_a: float  # nats
    log_likelihood_b: float
    per_token: Rate | None  # nats, where a token is the same thing in both
    per_byte: Rate | None  # bits that B saves
    p_value: float
    improved: Interval  # share of the documents, or of the blocks of one, that B makes strictly more likely

    @property
    def main(self) -> Rate:
        """Nats per token, or bits per byte where tokens cannot be compared."""
        rate = self.per_token or self.per_byte
        assert rate is not None
        return rate

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints: null for what there is too little to say about."""
        token, byte = _plain_rate(self.per_token), _plain_rate(self.per_byte)
        nats = self.log_likelihood_b - self.log_likelihood_a
        return {
            "nats_per_token_difference": token["estimate"],
            "ci95": token["ci95"],
            "p_value": self.p_value,
            "num_documents": self.num_documents,
            "interval_unit": self.interval_unit,
            "num_units": self.num_units,
            "improved_share": self.improved.estimate,
            "improved_share_ci95": _ends(self.improved),
            "bootstrap_ci95": token["bootstrap"],
            "median_nats_per_token_difference": token["median"],
            "bits_per_byte_saved": byte["estimate"],
            "bits_per_byte_saved_ci95": byte["ci95"],
            "bits_per_byte_saved_bootstrap_ci95": byte["bootstrap"],
            "median_bits_per_byte_saved": byte["median"],
            "bits_per_byte_a": -self.log_likelihood_a * _BITS / self.num_bytes if self.num_bytes else None,
            "bits_per_byte_b": -self.log_likelihood_b * _BITS / self.num_bytes if self.num_bytes else None,
            "log_likelihood_difference": nats,
            "num_tokens": self.num_tokens,
            "num_bytes": self.num_bytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDifference:
    """The same for the documents of one source; `p_holm` is adjusted for looking at several sources."""

    source: str
    difference: Difference
    p_holm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One of the rows that differ most."""

    id: str
    part: str
    source: str
    difference: float  # nats, B - A
    log_prob_a: float
    log_prob_b: float
    num_tokens_a: int
    num_tokens_b: int
    num_bytes: int
    digest: str
    text: str | None = None  # where the data is at hand


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The difference between two ledgers of the same data."""

    a: str
    b: str
    model_a: str  # as its ledger says, if it does
    model_b: str
    policy_a: str  # how it was scored, in words
    policy_b: str
    whole: Difference
    sources: list[SourceDifference]  # the most documents first
    gains: list[Case]  # the largest first
    losses: list[Case]
    notes: list[str]  # reasons for caution
    accuracies: tuple[Interval, Interval] | None = None  # of two classifiers

    @property
    def unit(self) -> str:
        """The unit of the main number."""
        return f"nats per {'label' if self.accuracies else 'token'}" if self.whole.per_token else "bits per byte"

    @property
    def verdict(self) -> Literal["A", "B", "same", "open"]:
        """A or B if the interval excludes 0 and p < 0.05; same if no document differs by a bit."""
        low, high = self.whole.main.interval[1:]
        if not self.whole.main.by_unit.any():
            return "same"
        if self.whole.p_value >= LIMIT or not (low > 0 or high < 0):
            return "open"
        return "B" if low > 0 else "A"

    @property
    def headline(self) -> str:
        """The verdict in words."""
        match self.verdict:
            case "same":
                return "A and B give every document the same likelihood, to the last bit"
            case "open":
                return "It is open which one makes the data more likely"
            case better:
                return f"{better} makes the data more likely"

    @property
    def numbers(self) -> str:
        """The numbers behind the verdict."""
        estimate, low, high = self.whole.main.interval
        difference = f"B - A = {estimate:+.4g}" if self.whole.per_token else f"B saves {estimate:+.4g}"
        interval = "no interval" if math.isnan(low) else f"95% interval {low:+.4g} to {high:+.4g}"
        count = count_of(self.whole.num_units, self.whole.interval_unit)
        return f"{difference} {self.unit} ({interval}, p = {self.whole.p_value:.2g}, {count})"

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        sources = [{"source": one.source, "p_holm": one.p_holm} | one.difference.to_dict() for one in self.sources]
        cases = {name: [fields_as_json(one) for one in getattr(self, name)] for name in ("gains", "losses")}
        names = {"a": self.a, "b": self.b, "model_a": self.model_a, "model_b": self.model_b}
        said = (
            names
            | {"policy_a": self.policy_a, "policy_b": self.policy_b}
            | {"verdict": self.verdict, "notes": self.notes}
        )
        found = self.whole.to_dict() | said | {"sources": sources} | cases
        return found if self.accuracies is None else _of_labels(found) | _plain_accuracies(self.accuracies)


def compare_ledgers(a: Scored, b: Scored, top: int = 10, *, lower_bound: bool = False) -> Comparison:
    r"""B against A on the same rows, with the `top` largest gains and losses.

    With $d_i = \log \Pr_B(x_i) - \log \Pr_A(x_i)$ summed over the rows of document i, and its tokens or bytes $t_i$:
    the ratio $\sum_i d_i / \sum_i t_i$ with the interval of `ratio_interval`, and of `bootstrap_interval` where there
    are fewer than 200 documents, the p-value of `sign_flip_p_value`, and the share of documents with $d_i > 0$.
    One document is compared by its blocks, where A and B have the same tokens, in place of documents.
    By source the same, with Holm's adjustment of p. Raises what `pair_rows` raises, and, unless a `lower_bound` will
    do, DataError where one of two tokenizers loses some of the text.
    """
    pairs, with_tokens = pair_rows(a, b), is_one_tokenizer(a, b)
    if not with_tokens and not lower_bound:
        _refuse_lossy(a, b)
    compared = [pair for pair in pairs if pair.a.num_bytes or (with_tokens and pair.a.num_tokens)]
    by_source: dict[str, list[Pair]] = {}
    for pair in compared:
        by_source.setdefault(pair.a.source, []).append(pair)
    if not by_source:
        raise DataError(
            "nothing can be compared: no row has a byte", cure="thetahat score MODEL DATA --out ledger.parquet"
        )
    found = {source: _difference(some, with_tokens) for source, some in by_source.items()}
    adjusted = holm([difference.p_value for difference in found.values()])
    sources = [
        SourceDifference(source=source, difference=difference, p_holm=p)
        for (source, difference), p in zip(found.items(), adjusted, strict=True)
    ]
    whole = _difference(compared, with_tokens)
    gains, losses = (
        sorted(pairs, key=lambda pair: (sign * pair.difference, pair.a.id, pair.a.part))[:top] for sign in (-1, 1)
    )
    return Comparison(
        a=a.name,
        b=b.name,
        model_a=a.metadata.get("model", ""),
        model_b=b.metadata.get("model", ""),
        policy_a=said_policy(a),
        policy_b=said_policy(b),
        whole=whole,
        sources=sorted(sources, key=lambda one: (-one.difference.num_documents, one.source)),
        gains=[_case(pair) for pair in gains if pair.difference > 0],
        losses=[_case(pair) for pair in losses if pair.difference < 0],
        notes=_sample_notes(whole) + _notes(a, b, pairs),
        accuracies=_accuracies(a, b),
    )


def _accuracies(a: Scored, b: Scored) -> tuple[Interval, Interval] | None:
    ours, theirs = classification_of(a.rows), classification_of(b.rows)
    return (ours.accuracy, theirs.accuracy) if ours and theirs else None


def _refuse_lossy(a: Scored, b: Scored) -> None:
    for scored in (a, b):
        if lossy := [row.id for row in scored.rows if not row.is_lossless]:
            raise DataError(
                f"the tokenizer of {scored.name} loses some of the text in {len(lossy):,} of {len(scored.rows):,} rows "
                f"({', '.join(lossy[:3])}): many texts have these tokens, so that its bits per byte are a lower bound",
                allowed="two models with one tokenizer, or with tokenizers that lose nothing",
                cure="--lower-bound compares them all the same, which favours the model whose tokenizer loses more",
            )


def _difference(pairs: Sequence[Pair], with_tokens: bool) -> Difference:
    num_documents = len({pair.a.document for pair in pairs})
    blocks = _blocks(pairs) if with_tokens and num_documents == 1 else None
    nats, tokens, size = blocks or _by_document(pairs)
    per_token, per_byte = _rate(nats, tokens) if with_tokens else None, _rate(nats * _BITS, size)
    return Difference(
        num_documents=num_documents,
        num_units=len(nats),
        interval_unit=OF_ONE_DOCUMENT if blocks else "documents",
        num_tokens=int(tokens.sum()) if with_tokens else None,
        num_bytes=int(size.sum()),
        log_likelihood_a=exact_sum(pair.a.log_prob for pair in pairs),
        log_likelihood_b=exact_sum(pair.b.log_prob for pair in pairs),
        per_token=per_token,
        per_byte=per_byte,
        p_value=sign_flip_p_value(nats),
        improved=wilson_interval(int(np.sum(nats > 0)), len(nats)),
    )


class _Units(NamedTuple):
    """Sums over each document, or each block of one."""

    nats: NDArray[np.float64]  # that B gives more
    num_tokens: NDArray[np.float64]
    num_bytes: NDArray[np.float64]


def _by_document(pairs: Sequence[Pair]) -> _Units:
    documents = [pair.a.document for pair in pairs]
    return _Units(
        sum_by(documents, [pair.difference for pair in pairs]),
        sum_by(documents, [pair.a.num_tokens for pair in pairs]),
        sum_by(documents, [pair.a.num_bytes for pair in pairs]),
    )


def _blocks(pairs: Sequence[Pair]) -> _Units | None:
    """The blocks of one document, paired where A and B have the same tokens; None if there are fewer than two."""
    ours, theirs = joined_blocks([pair.a for pair in pairs]), joined_blocks([pair.b for pair in pairs])
    if len(ours) < 2 or [block[:2] for block in ours] != [block[:2] for block in theirs]:
        return None
    return _Units(
        np.array([b.log_prob - a.log_prob for a, b in zip(ours, theirs, strict=True)]),
        np.array([float(block.num_tokens) for block in ours]),
        np.array([float(block.num_bytes) for block in ours]),
    )


def _rate(difference: NDArray[np.float64], count: NDArray[np.float64]) -> Rate | None:
    some = count > 0
    if not some.any():
        return None
    few = bootstrap_interval(difference, count) if len(count) < FEW_DOCUMENTS else None
    return Rate(ratio_interval(difference, count), few, difference[some] / count[some])


def _case(pair: Pair) -> Case:
    a, b = pair
    return Case(
        id=a.id,
        part=a.part,
        source=a.source,
        difference=pair.difference,
        log_prob_a=a.log_prob,
        log_prob_b=b.log_prob,
        num_tokens_a=a.num_tokens,
        num_tokens_b=b.num_tokens,
        num_bytes=a.num_bytes,
        digest=a.digest or b.digest,
    )


def _sample_notes(whole: Difference) -> list[str]:
    """Notes on the interval where there are few documents."""
    split = "score with data.split_on=TEXT, what stands between documents"
    if whole.interval_unit == OF_ONE_DOCUMENT:
        said = [f"the interval is over {OF_ONE_DOCUMENT}: it says nothing of other documents"]
    elif whole.num_documents > 1:
        said = []
    elif whole.per_token is None:
        said = [f"one document under two tokenizers has no interval, its blocks hold other tokens: {split}"]
    else:
        said = [f"one document of fewer than two {BLOCKS} has no interval: {split}, or more text"]
    if 1 < whole.num_units < MIN_DOCUMENTS:
        said.append(f"fewer than {MIN_DOCUMENTS} {whole.interval_unit}: the interval is rough")
    return said


def _notes(a: Scored, b: Scored, pairs: Sequence[Pair]) -> list[str]:
    unchecked = sum(not (pair.a.digest and pair.b.digest) for pair in pairs)
    cut = [sum(row.tokens_cut for row in scored.rows) for scored in (a, b)]
    read = [scored.metadata.get("read", NOT_SAID) for scored in (a, b)]
    policies = [said_policy(scored) for scored in (a, b)]
    lossy = [sum(not row.is_lossless for row in scored.rows) for scored in (a, b)]
    said = {
        "A and B have different tokenizers (or do not say which), so only bytes can be compared, not tokens": (
            not is_one_tokenizer(a, b)
        ),
        f"bits per byte are a lower bound where a tokenizer loses text: {lossy[0]:,} rows of A, {lossy[1]:,} of B": (
            any(lossy) and not is_one_tokenizer(a, b)
        ),
        f"not every token could see all that stands before it: A was read {read[0]}, B {read[1]}": (
            {*read} - {WHOLE, NOT_SAID} != set()
        ),
        f"of {counted(unchecked, 'row')} only id and bytes show that the text is the same: no digests": unchecked,
        f"targets of the data that were not scored: {cut[0]:,} in A, {cut[1]:,} in B": any(cut),
        f"A was scored with {policies[0]}, B with {policies[1]}": policies[0] != policies[1],
    }
    return [note for note, holds in said.items() if holds]


def _plain_accuracies(accuracies: tuple[Interval, Interval]) -> dict[str, Any]:
    named = dict(zip(("accuracy_a", "accuracy_b"), accuracies, strict=True))
    return {name: found.estimate for name, found in named.items()} | {
        f"{name}_ci95": _ends(found) for name, found in named.items()
    }


def _of_labels(found: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of two classifiers: nats per label, and nothing of bytes or tokens."""
    kept = {name: value for name, value in found.items() if "_byte" not in name}
    renamed = {name.replace("per_token", "per_label").replace("num_tokens", "num_labels"): kept[name] for name in kept}
    return renamed | {"sources": [_of_labels(one) for one in found["sources"]]} if "sources" in found else renamed


def _plain_rate(rate: Rate | None) -> Mapping[str, Any]:
    if rate is None:
        return dict.fromkeys(("estimate", "ci95", "bootstrap", "median"))
    return {
        "estimate": rate.interval.estimate,
        "ci95": _ends(rate.interval),
        "bootstrap": _ends(rate.bootstrap) if rate.bootstrap else None,
        "median": rate.median,
    }


def _ends(interval: Interval) -> list[float] | None:
    return None if math.isnan(interval.low) else [interval.low, interval.high]
