"""A mixture of experts: many feed-forward networks, of which each position reads a few."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from thetahat.model.config import ExpertsConfig, TransformerConfig
from thetahat.model.law import BIAS, MATRIX, Law
from thetahat.model.layers.mlp import MLP
from thetahat.model.precision import product_dtype


class Routing(NamedTuple):
    """Which experts some positions read, and how much of each."""

    logits: Float[Tensor, "N E"]
    scores: Float[Tensor, "N E"]  # > 0
    chosen: Int[Tensor, "N k"]
    weights: Float[Tensor, "N k"]  # of what is chosen


@final
class Router(nn.Module):
    r"""Chooses the k experts of the highest $s_i + b_i$, with scores $s = f(R\,x)$; of equal ones the first.

    Where experts stand in groups, it first chooses groups, and then experts of these alone.

    Their weights are $c\,s_i$, or $c\,s_i / \sum_{j \in \mathrm{chosen}} s_j$, of scores alone: the bias b has no
    gradient (Wang et al., Auxiliary-Loss-Free Load Balancing, 2024, arXiv 2408.15664), and is moved by the step. f is
    the softmax over experts (Fedus et al., Switch Transformers, 2021, arXiv 2101.03961) or the sigmoid (DeepSeek-V3,
    2024, arXiv 2412.19437). In at least float32 whatever the dtype of products, since a choice is no matter of degree.
    """

    laws: ClassVar[Mapping[str, Law]] = {"weight": MATRIX, "bias": BIAS}

    def __init__(self, config: ExpertsConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, width))
        self.bias = nn.Parameter(torch.zeros(config.num_experts), requires_grad=False) if config.has_bias else None

    def forward(self, x: Float[Tensor, "N D"]) -> Routing:
        config, wide = self.config, torch.promote_types(self.weight.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            logits = linear(x.to(wide), self.weight.to(wide))
        scores = logits.sigmoid() if config.scores == "sigmoid" else logits.softmax(-1)
        compared = _of_best_groups(scores.detach() if self.bias is None else scores.detach() + self.bias, config)
        chosen = compared.sort(dim=-1, descending=True, stable=True).indices[:, : config.num_chosen]
        weights = scores.gather(-1, chosen)
        weights = weights / weights.sum(-1, keepdim=True) if config.normalizes else weights
        return Routing(logits, scores, chosen, weights if config.scale == 1 else weights * config.scale)

    if TYPE_CHECKING:
        __call__ = forward


def _of_best_groups(compared: Float[Tensor, "N E"], config: ExpertsConfig) -> Float[Tensor, "N E"]:
    """The scores, and less than any score outside the groups that each position chooses.

    A group's score is its highest (DeepSeek-V2, 2024, arXiv 2405.04434, section 2.2.2), or the sum of its two highest
    (DeepSeek-V3, 2024, arXiv 2412.19437, section 2.1.2).
    """
    if config.num_groups == 1:
        return compared
    grouped = compared.unflatten(-1, (config.num_groups, -1))
    score = grouped.topk(2 if config.group_score == "best-two" else 1, -1).values.sum(-1)
    others = score.sort(dim=-1, descending=True, stable=True).indices[:, config.num_chosen_groups :]
    is_other = torch.zeros_like(score, dtype=torch.bool).scatter(-1, others, value=True)
    return grouped.masked_fill(is_other[..., None], -torch.inf).flatten(-2)


@final
class Experts(nn.Module):
    r"""$\sum_{i \in \mathrm{chosen}} w_i\,\mathrm{MLP}_i(x) + \mathrm{MLP}_\mathrm{shared}(x)$; the last may be absent.

    Positions are sorted by expert, and each expert reads its own at once, however many they are: none is dropped and
    none is padded (Gale et al., MegaBlocks, 2022, arXiv 2211.15841). An expert that nobody chooses is read with no
    positions, so that it has a gradient, of zeros.
    """

    def __init__(self, config: TransformerConfig, experts: ExpertsConfig) -> None:
        super().__init__()
        self.config = experts
        self.router = Router(experts, config.width)
        self.experts = nn.ModuleList(MLP(config, experts.inner_width) for _ in range(experts.num_experts))
        self.shared = MLP(config, experts.shared_width) if experts.shared_width else None

    @property
    def num_idle(self) -> int:
        """Experts that a position does not choose."""
        return self.config.num_experts - self.config.num_chosen

    def forward(self, x: Float[Tensor, "*axes D"]) -> Float[Tensor, "*axes D"]:
        flat = x.flatten(0, -2)
        routing = self.router(flat)
        expert = routing.chosen.flatten()
        order = expert.argsort(stable=True)
        sizes = torch.bincount(expert, minlength=len(self.experts)).tolist()
        parts = flat.to(product_dtype(x))[order // self.config.num_chosen].split(sizes)
        read = torch.cat([one(part) for one, part in zip(self.experts, parts, strict=True)])
        each = read[order.argsort()].unflatten(0, routing.chosen.shape)
        found = (each * routing.weights[..., None]).sum(1).to(x.dtype).view_as(x)
        return found if self.shared is None else found + self.shared(x)

    if TYPE_CHECKING:
        __call__ = forward


def network_of(config: TransformerConfig, layer: int) -> MLP | Experts:
    """What a layer, counted from 0, has behind its attention."""
    experts = config.experts_of(layer)
    return MLP(config) if experts is None else Experts(config, experts)


def routers_of(model: nn.Module) -> dict[str, Router]:
    """The routers of a model by their names in it, those of an encoder first; layers that are shared share one."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Router)}


@contextmanager
def noting_routes(routers: Mapping[str, Router]) -> Generator[list[tuple[str, Routing]]]:
    """Notes what these routers choose inside the block, by their names, in the order of reading."""
    found: list[tuple[str, Routing]] = []

    def note(name: str, _router: nn.Module, _inputs: Any, routing: Routing) -> None:
        found.append((name, routing))

    handles = [router.register_forward_hook(partial(note, name)) for name, router in routers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
