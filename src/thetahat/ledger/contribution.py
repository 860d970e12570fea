"""On how much of its data a run's objective rests: the weight of each record in it, from the run's ledger."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thetahat.core.errors import DataError
from thetahat.ledger.ledger import Table
from thetahat.objective.config import ObjectiveConfig

# pyright: reportUnknownParameterType=false


class Spread(NamedTuple):
    """How evenly some weights are spread over those that have them."""

    number: int
    effective_number: float
    gini: float
    top_share: float  # of the heaviest 1 %


def spread(weight: ArrayLike) -> Spread:
    r"""$N_\mathrm{eff} = (\sum_r W_r)^2 / \sum_r W_r^2$, Gini's coefficient, and the share of the heaviest 1 %.

    $G = \sum_{r} (2r - n - 1) W_{(r)} / (n \sum_r W_r)$ with $W_{(1)} \le W_{(2)} \le \ldots$ the n weights in order:
    0 where all weigh alike, $1 - 1/n$ where one holds everything. Kish, Survey Sampling, 1965; Gini, 1912.
    """
    ordered = np.sort(np.asarray(weight, dtype=np.float64))
    total, count = ordered.sum(), len(ordered)
    if not (count and ordered[0] >= 0 and total > 0):
        raise DataError("weights that are none, negative, or all 0 have no spread")
    place = 2 * np.arange(1, count + 1) - count - 1
    scaled = ordered / total
    return Spread(count, float(1 / (scaled**2).sum()), float((place * scaled).sum() / count), top_share(ordered, 0.01))


def top_share(weight: ArrayLike, part: float) -> float:
    """The share of the total that the heaviest `part` of all holds, by the Lorenz curve: it grows with the part."""
    return 1 - float(_lorenz(weight, np.array([1 - part]))[0])


def lorenz(weight: ArrayLike, num_points: int = 11) -> list[float]:
    """The share of the total that the lightest 0 %, ..., 100 % hold, at `num_points` even steps and linear between."""
    return _lorenz(weight, np.linspace(0, 1, num_points)).tolist()


def _lorenz(weight: ArrayLike, parts: NDArray[np.float64]) -> NDArray[np.float64]:
    ordered = np.sort(np.asarray(weight, dtype=np.float64))
    held = np.concatenate([[0.0], np.cumsum(ordered)]) / ordered.sum()
    return np.interp(parts * len(ordered), np.arange(len(ordered) + 1), held)


def account(ledger: Table, objective: ObjectiveConfig) -> dict[str, Any]:
    r"""The parts of a run's objective: its records, sources and lengths, by weight and by nats.

    A row counts for $w t / Z_s$ with w its weight, t its tokens and $Z_s$ the divisor of its step: the weight of its
    batch, or 1 under the normalization `sum`. What it costs is the same with its nats: $-w \log \Pr / Z_s$.
    """
    if not len(ledger):
        raise DataError("the ledger has no rows")
    weight, tokens, nats, step = (ledger[name].to_numpy() for name in ("weight", "num_tokens", "log_prob", "step"))
    mass = weight * tokens
    numbers, of_step = np.unique(step, return_inverse=True)
    divisor = np.array([objective.step_divisor(weight) for weight in np.bincount(of_step, mass).tolist()])
    made_of = {"weight": mass / divisor[of_step], "nats": -weight * nats / divisor[of_step], "tokens": tokens}
    shares = {name: values / values.sum() for name, values in made_of.items()}
    record = ledger["id"].dictionary_encode().combine_chunks()
    of_record = np.bincount(record.indices.to_numpy(), made_of["weight"])
    sources = ledger["source"].to_pylist()
    return {
        "steps": len(numbers),
        "rows": len(ledger),
        "records": spread(of_record)._asdict() | {"lorenz": lorenz(of_record)},
        "sources": grouped(sources, shares),
        "lengths": grouped(deciles(tokens), shares),
    }


def deciles(num_tokens: ArrayLike) -> list[str]:
    """For each row the tenth of all rows that it belongs to by its length, named by its shortest and longest length."""
    length = np.asarray(num_tokens, dtype=np.int64)
    edges = np.unique(np.quantile(length, np.linspace(0, 1, 11)[1:-1], method="inverted_cdf"))
    group = np.searchsorted(edges, length, side="left")
    names: dict[int, str] = {}
    for one in np.unique(group).tolist():
        low, high = length[group == one].min(), length[group == one].max()
        names[one] = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return [f"{names[one]} tokens" for one in group.tolist()]


def grouped(names: list[str], values: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """The sums of each column over the rows of one name; the largest of the first column comes first."""
    known = list(dict.fromkeys(names))
    index = {name: number for number, name in enumerate(known)}
    group = np.array([index[name] for name in names])
    sums = {name: np.bincount(group, column) for name, column in values.items()}
    counts = np.bincount(group)
    rows = [
        {"name": name, "rows": int(counts[i])} | {key: float(one[i]) for key, one in sums.items()}
        for i, name in enumerate(known)
    ]
    first = next(iter(values))
    return sorted(rows, key=lambda row: -row[first])
