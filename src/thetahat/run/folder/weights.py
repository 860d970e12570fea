"""The weights that a MODEL argument means: those of a checkpoint, its moving average, or the mean of checkpoints."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from thetahat.core import store
from thetahat.run.folder.checkpoint import load_tensors
from thetahat.run.folder.files import AVERAGE, MODEL, step_of


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one verified checkpoint or of several, the newest last; with `is_moving` its moving average."""

    folders: tuple[Path, ...]
    is_moving: bool = False

    @property
    def folder(self) -> Path:
        """The checkpoint that everything else is of: tokenizer, card, config."""
        return self.folders[-1]

    @property
    def is_average(self) -> bool:
        """Whether no step of the training had these weights."""
        return self.is_moving or len(self.folders) > 1

    @property
    def file(self) -> str:
        """The name of the file that they are read from."""
        return AVERAGE if self.is_moving else MODEL

    @property
    def name(self) -> str:
        """What stands behind RUN@ for them."""
        if len(self.folders) > 1:
            return f"mean:{len(self.folders)}"
        return f"{step_of(self.folder)}:ema" if self.is_moving else str(step_of(self.folder))

    @property
    def digest(self) -> str:
        """As the manifests have it: of one file its SHA-256, of several that of all."""
        digests = [store.digest_in(folder, self.file) for folder in self.folders]
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        r"""By name; of several $\frac{1}{k} \sum_j \theta_j$, summed in float64 and rounded once to their own dtype.

        Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, arXiv 1803.05407.
        """
        first = load_tensors(self.folders[0] / self.file)
        if len(self.folders) == 1:
            return first
        sums = {name: value.double() for name, value in first.items()}
        for folder in self.folders[1:]:
            for name, value in load_tensors(folder / self.file).items():
                sums[name] += value.double()
        return {name: (value / len(self.folders)).to(first[name].dtype) for name, value in sums.items()}
