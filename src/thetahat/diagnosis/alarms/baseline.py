"""What is usual for a signal: a trend, and the spread of what is left when it is taken away."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

WINDOW = 128  # steps of which the spread is known
LEAST = 20  # steps before anything is compared
KEEPS = 0.9  # of the trend, a step
CONSISTENT = 1.4826  # times the median of |x - median| of a normal distribution is its standard deviation
LEAST_SPREAD = 1e-3  # of the trend: what is constant has a spread, too
MOST_FROZEN = 64  # steps; what lasts longer is the new usual


@final
class Baselines:
    r"""Trend and robust spread of several signals at once.

    The trend is $m_t = 0.9\, m_{t-1} + 0.1\, x_t$, and $r_t = x_t - m_{t-1}$ is what it did not foresee. A new value
    deviates by $z = (r - \mathrm{median}) / (1.4826\ \mathrm{MAD})$, over the last WINDOW of $r$, so that neither a
    falling trend nor some outliers move it. What is frozen is not taken in; after MOST_FROZEN frozen steps in a row a
    signal begins anew.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.level = np.full(len(names), np.nan)
        self.residuals = np.full((len(names), WINDOW), np.nan, np.float32)
        self.count = np.zeros(len(names), np.int64)
        self.frozen = np.zeros(len(names), np.int64)

    def deviations(self, values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Z of each value; 0 where too little is known, or where the value is not finite."""
        is_known = (self.count >= LEAST) & np.isfinite(values)
        found = np.zeros(len(values))
        if is_known.any():
            past = self._past()[is_known].astype(np.float64)
            middle = np.median(past, 1)
            spread = CONSISTENT * np.median(np.abs(past - middle[:, None]), 1)
            level = self.level[is_known]
            spread = np.maximum(spread, LEAST_SPREAD * np.maximum(np.abs(level), LEAST_SPREAD))
            found[is_known] = (values[is_known] - level - middle) / spread
        return found

    def take(self, values: Float64[np.ndarray, " n"], is_frozen: Bool[np.ndarray, " n"]) -> None:
        """Takes in the values of a step, but where it is frozen or not finite."""
        is_old = self.frozen >= MOST_FROZEN
        self.level[is_old], self.residuals[is_old], self.count[is_old], self.frozen[is_old] = np.nan, np.nan, 0, 0
        takes = ~(is_frozen & ~is_old) & np.isfinite(values)
        self.frozen = np.where(takes, 0, self.frozen + is_frozen)
        begins = takes & np.isnan(self.level)
        goes_on = takes & ~begins
        place = self.count % WINDOW
        self.residuals[goes_on, place[goes_on]] = (values - self.level)[goes_on]
        self.level = np.where(begins, values, np.where(goes_on, KEEPS * self.level + (1 - KEEPS) * values, self.level))
        self.count += goes_on

    def _past(self) -> NDArray[np.float32]:
        """The residuals; of signals with fewer than WINDOW the rest is filled by repeating them."""
        if (self.count >= WINDOW).all():
            return self.residuals
        index = np.arange(WINDOW) % np.clip(self.count, 1, WINDOW)[:, None]
        return np.take_along_axis(self.residuals, index, 1)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as a checkpoint keeps it."""
        return {
            "names": list(self.names),
            "level": [None if np.isnan(one) else float(one) for one in self.level],
            "count": self.count.tolist(),
            "frozen": self.frozen.tolist(),
            "residuals": base64.b64encode(self.residuals.tobytes()).decode(),
        }

    @staticmethod
    def from_dict(kept: Mapping[str, Any]) -> "Baselines":
        """What `to_dict` returned."""
        found = Baselines(kept["names"])
        found.level = np.array([np.nan if one is None else one for one in kept["level"]], np.float64)
        found.count, found.frozen = (np.array(kept[name], np.int64) for name in ("count", "frozen"))
        raw = np.frombuffer(base64.b64decode(kept["residuals"]), np.float32)
        found.residuals = raw.reshape(len(found.names), WINDOW).copy()
        return found
