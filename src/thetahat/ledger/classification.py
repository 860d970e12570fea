"""How often the likeliest label is the right one: over all texts, label by label, and which are confused."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thetahat.core.plain import fields_as_json
from thetahat.ledger.ledger import LedgerRow
from thetahat.statistics.interval import Interval, exact_sum
from thetahat.statistics.paired import effective_number, wilson_interval


@dataclass(frozen=True, slots=True)
class LabelScore:
    """How well the texts of one label are told from the others."""

    label: str
    support: int  # texts that have it
    num_predicted: int  # texts of which it is the likeliest
    num_right: int  # texts of both kinds
    log_likelihood: float  # nats, of the label given each text that has it

    @property
    def precision(self) -> float:
        """The share of the texts for which it was predicted that have it; 0 where it was never predicted."""
        return self.num_right / self.num_predicted if self.num_predicted else 0.0

    @property
    def recall(self) -> float:
        """The share of the texts that have it for which it was predicted; 0 where no text has it."""
        return self.num_right / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        r"""The harmonic mean of both, $2 r / (s + p)$ with r right ones of s in support and p predicted."""
        return 2 * self.num_right / (self.support + self.num_predicted)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        rates = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        nats = {"nats_per_label": -self.log_likelihood / self.support if self.support else None}
        return {"label": self.label, "support": self.support, "num_predicted": self.num_predicted} | rates | nats


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the confusion matrix."""

    label: str
    predicted: str
    count: int


@dataclass(frozen=True, slots=True)
class Classification:
    """The predictions for labelled texts, counted."""

    accuracy: Interval  # the share of right ones, with Wilson's 95 % interval
    num_texts: int
    num_right: int
    num_clusters: int  # texts of one document count as far as they disagree
    labels: list[LabelScore]  # in the order of the alphabet: those that a text has, or that were predicted
    confusion: list[Cell]  # where texts are, the most first

    @property
    def macro_f1(self) -> float:
        """The mean of F1 over the labels, each with the same weight."""
        return math.fsum(one.f1 for one in self.labels) / len(self.labels)

    @property
    def confused(self) -> list[Cell]:
        """Cells beside the diagonal, the most texts first."""
        return [cell for cell in self.confusion if cell.label != cell.predicted]

    def brief(self) -> dict[str, Any]:
        """The few numbers of a progress line or a log."""
        share, low, high = self.accuracy
        return {"accuracy": share, "accuracy_ci95": [low, high], "num_right": self.num_right, "macro_f1": self.macro_f1}

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints: of the confusion matrix every cell in which texts are."""
        means = {
            f"macro_{name}": math.fsum(getattr(one, name) for one in self.labels) / len(self.labels)
            for name in ("precision", "recall")
        }
        counts = {"num_texts": self.num_texts, "num_clusters": self.num_clusters}
        confusion = [fields_as_json(cell) for cell in self.confusion]
        return (
            self.brief() | means | counts | {"labels": [one.to_dict() for one in self.labels], "confusion": confusion}
        )


def classification_of(rows: Sequence[LedgerRow]) -> Classification | None:
    r"""What the rows of a classifier say; None where they are not of one.

    A text is right where its label is the likeliest of all (of equally likely ones, the first in the model's order).
    The interval of the accuracy is Wilson's, with as many independent texts as `effective_number` finds in those that
    share a document. F1 of a label is $2 r / (s + p)$.
    """
    some = [(row.label, row.predicted, row) for row in rows if row.label is not None and row.predicted is not None]
    if not some:
        return None
    cells = Counter((label, predicted) for label, predicted, _ in some)
    nats: dict[str, list[float]] = {}
    for label, _, row in some:
        nats.setdefault(label, []).append(row.log_prob)
    support, predictions = Counter[str](), Counter[str]()
    for (label, predicted), count in cells.items():
        support[label] += count
        predictions[predicted] += count
    documents, is_right = [row.document for *_, row in some], [label == predicted for label, predicted, _ in some]
    num_right = sum(is_right)
    return Classification(
        accuracy=wilson_interval(num_right, len(some), effective=effective_number(documents, is_right)),
        num_texts=len(some),
        num_right=num_right,
        num_clusters=len(set(documents)),
        labels=[
            LabelScore(name, support[name], predictions[name], cells[name, name], exact_sum(nats.get(name, [])))
            for name in sorted(support | predictions)
        ],
        confusion=[Cell(*pair, count) for pair, count in sorted(cells.items(), key=lambda cell: (-cell[1], cell[0]))],
    )
