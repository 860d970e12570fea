"""The weights that a MODEL argument means: those of a checkpoint, its moving average, or the mean of checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from thetahat.interop.made import Made, metas
from thetahat.run.folder.files import AVERAGE, MODEL, digest_of, joined, step_of
from thetahat.run.folder.tensors import load_tensors


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
        """The kind of tensors that they are, which is the name of the file where that is one."""
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
        return joined(digest_of(folder, self.file) for folder in self.folders)

    def tensors(self) -> Mapping[str, Tensor]:
        r"""By name, each read when it is asked for.

        Of several checkpoints $\frac{1}{k} \sum_j \theta_j$, summed in float64 and rounded once to their own dtype.

        Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, arXiv 1803.05407.
        """
        each = [load_tensors(folder / self.file) for folder in self.folders]
        if len(each) == 1:
            return each[0]
        return Made({name: partial(_mean, each, name) for name in each[0]}, metas(each[0]))


def _mean(each: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    first, *others = (tensors[name] for tensors in each)
    total = first.double()
    for other in others:
        total += other.double()
    return (total / len(each)).to(first.dtype)
