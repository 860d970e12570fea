"""What a module says of its parameters: how they begin, and which rule of the optimizer updates them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from thetahat.core.errors import ModelError


@dataclass(frozen=True, slots=True)
class Constant:
    """All elements begin at one value."""

    value: float


@dataclass(frozen=True, slots=True)
class Normal:
    r"""$\mathcal{N}(0, \mathrm{deviation}^2)$."""

    deviation: float


@dataclass(frozen=True, slots=True)
class FanIn:
    r"""$\mathcal{N}(0, g^2 / \mathrm{fan\_in})$, fan_in being the last axis.

    Where no gain is given, g is 1, and $1/\sqrt{W}$ for what writes into a stream that W matrices write into.
    """

    gain: float | None = None


@dataclass(frozen=True, slots=True)
class Uniform:
    """f(u) of u that is drawn evenly between two values."""

    low: float
    high: float
    then: Callable[[Tensor], Tensor]  # f


@dataclass(frozen=True, slots=True)
class Law:
    """Of one parameter: the group whose rule updates it, its distribution at the beginning, and where it leads.

    What writes into the `residual` stream ends a branch, whose output is added there; it is linear in what writes
    `values`.
    """

    group: Literal["matrices", "embeddings", "vectors"]
    begins: Constant | Normal | FanIn | Uniform
    writes: Literal["layer", "values", "residual", "logits"] = "layer"


MATRIX = Law("matrices", FanIn())
VALUES = Law("matrices", FanIn(), "values")
WRITER = Law("matrices", FanIn(), "residual")
ZERO_WRITER = Law("matrices", Constant(0.0), "residual")
TABLE = Law("embeddings", Normal(0.02))  # a row is a token, not a direction of a linear map
HEAD = Law("embeddings", Normal(0.02), "logits")  # so is a row of the head
GAIN = Law("vectors", Constant(1.0))
BIAS = Law("vectors", Constant(0.0))
WRITER_BIAS = Law("vectors", Constant(0.0), "residual")
HEAD_BIAS = Law("vectors", Constant(0.0), "logits")
FILTER = Law("vectors", FanIn())  # of each channel apart: no map from channels to channels
RATE = Law("vectors", Uniform(1.0, 16.0, torch.log))  # log of how fast a state decays: Mamba-2's, arXiv 2405.21060
STEP = Law("vectors", Uniform(math.log(1e-3), math.log(1e-1), lambda u: u.exp().expm1().log()))  # softplus(.): log-even
OFFSET = Law("vectors", Constant(0.0))  # a gain that is kept as its distance from 1
KNOWN = frozenset(  # to `transfer`
    {MATRIX, VALUES, WRITER, ZERO_WRITER, TABLE, HEAD, GAIN, BIAS, WRITER_BIAS, HEAD_BIAS, OFFSET}
)
Change = Callable[[Law], Law]


def laws_of(model: nn.Module) -> dict[str, Law]:
    """The law of each parameter by its name in the model; a tied weight is there once, under its first name.

    A module declares `laws: ClassVar[Mapping[str, Law]]` for its own parameters and for those of plain torch modules
    inside it, by their names in it; what a module inside declares itself comes before that. A module that has a
    `changes_law: Change` changes the laws of all that is inside it. Raises ModelError, naming the parameter, where
    nobody declares one.
    """
    declared: dict[str, Law] = {}
    for prefix, module in model.named_modules():  # the outer before the inner
        laws: Mapping[str, Law] = getattr(module, "laws", {})
        declared |= {f"{prefix}.{name}" if prefix else name: law for name, law in laws.items()}
    names = [name for name, _ in model.named_parameters()]
    if undeclared := [name for name in names if name not in declared]:
        raise ModelError(
            f"no module says how {undeclared[0]} begins and which rule updates it",
            cure="an entry for it in the `laws` of its module, for example MATRIX",
        )
    found = {name: declared[name] for name in names}
    for prefix, module in model.named_modules():
        change: Change | None = getattr(module, "changes_law", None)
        if change is not None:
            found |= {name: change(law) for name, law in found.items() if name.startswith(f"{prefix}.")}
    return found
