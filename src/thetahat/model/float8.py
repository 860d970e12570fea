"""Maps of blocks that multiply in float8 in training, each row scaled by itself."""

from typing import TYPE_CHECKING, Any, NamedTuple, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from thetahat.core.errors import ConfigError
from thetahat.model.block import Block
from thetahat.model.precision import product_dtype
from thetahat.model.stack import Stack

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max  # 448
MULTIPLE = 16  # of rows and columns of a matrix: kernels read 16 bytes at once
_SMALLEST = 2.0**-96  # the largest number of a row counts as this at least, so that rows of zeros stay zeros


class Scaled(NamedTuple):
    """Rows of float8, and what each is multiplied by."""

    values: Tensor  # [N C], of FORMAT
    scale: Float[Tensor, "N 1"]  # float32, powers of two

    def exact(self) -> Float[Tensor, "N C"]:
        """The rows that are meant, in float64."""
        return self.values.double() * self.scale


def scaled(x: Float[Tensor, "N C"]) -> Scaled:
    r"""Each row as $s_i q_i$, rounded once: $s_i$ is the smallest power of two with $\max_c |x_{ic}| \le 448\,s_i$.

    A row has its scale from itself alone, so it is the same in every batch. What is not finite stays so.
    """
    largest = x.abs().amax(-1, keepdim=True).float().clamp(min=_SMALLEST)
    scale = (largest / LARGEST).log2().ceil().exp2()
    return Scaled((x / scale).to(FORMAT), scale)


def product(a: Scaled, b: Scaled, dtype: torch.dtype) -> Float[Tensor, "N R"]:
    r"""$\sum_c a_{ic}\,b_{rc}$, summed in float32 and rounded to `dtype`, which is bfloat16 on a GPU."""
    if not len(a.values):
        return a.scale.new_zeros(0, len(b.values), dtype=dtype)
    return torch._scaled_mm(a.values, b.values.t(), scale_a=a.scale, scale_b=b.scale.t(), out_dtype=dtype)


class _Product(torch.autograd.Function):
    r"""$y = x W^\top$ and $\partial x = \partial y\,W$ of scaled rows; $\partial W = \partial y^\top x$ as it is.

    The last sums over positions: with scales it would depend on which positions are read at once. W is rounded to the
    dtype of x first, in which shards are gathered, so that ranks in shards have the bits of whole ones.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(scaled(x), scaled(weight.to(x.dtype)), x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient, (reads, learns) = gradients[0], ctx.needs_input_grad
        of_x = product(scaled(gradient), scaled(weight.to(x.dtype).t().contiguous()), x.dtype) if reads else None
        return of_x, (gradient.t() @ x).to(weight.dtype) if learns else None


@final
class Float8Linear(nn.Linear):
    """A map with the products of `_Product` in training, where they would be of bfloat16; else the plain map."""

    def forward(self, input: Float[Tensor, "*axes C"]) -> Float[Tensor, "*axes R"]:
        dtype = product_dtype(input)
        if not self.training or dtype != torch.bfloat16:
            return linear(input, self.weight, self.bias)
        flat = input.to(dtype).flatten(0, -2)
        made: Tensor = _Product.apply(flat, self.weight)  # pyright: ignore[reportAssignmentType]
        bias = cast(Tensor | None, self.bias)
        return (made if bias is None else made + bias.to(dtype)).unflatten(0, input.shape[:-1])

    if TYPE_CHECKING:
        __call__ = forward


def maps_of(model: nn.Module) -> dict[str, nn.Linear]:
    """The maps of the blocks, by name. The head, tables, norms and routers are no such maps."""
    blocks = [(prefix, block) for prefix, block in model.named_modules() if isinstance(block, Block)]
    named = [(f"{prefix}.{name}", one) for prefix, block in blocks for name, one in block.named_modules()]
    return {name: one for name, one in named if isinstance(one, nn.Linear)}


def multiply_in_float8(model: nn.Module) -> None:
    """Puts a Float8Linear with the same parameters in the place of each map to and from multiples of 16.

    Their parameters must be whole: what divides them comes afterwards. Raises ConfigError where there is no such map.
    """
    fitting = {name: one for name, one in maps_of(model).items() if not _is_odd(one)}
    for name, one in fitting.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _as_float8(one))
    if not fitting:
        raise ConfigError(
            "float8=true, and no map of a block is to and from widths that are multiples of 16",
            allowed="for example model.width=64 model.inner_width=192 model.head_width=16",
            cure="float8=false",
        )


def left_out_of(model: nn.Module) -> list[str]:
    """Maps to or from a width that is no multiple of 16."""
    return [name for name, one in maps_of(model).items() if _is_odd(one)]


def numbers_in_float8(model: nn.Module) -> int:
    """Numbers in the matrices of the other maps: of a shared layer as often as it is read."""
    number = sum(one.weight.numel() for one in maps_of(model).values() if not _is_odd(one))
    for stack in (one for one in model.modules() if isinstance(one, Stack)):
        in_blocks = sum(one.weight.numel() for one in maps_of(stack.blocks).values() if not _is_odd(one))
        number += (stack.num_layers // len(stack.blocks) - 1) * in_blocks
    return number


def _is_odd(one: nn.Linear) -> bool:
    return bool(one.in_features % MULTIPLE or one.out_features % MULTIPLE)


def _as_float8(one: nn.Linear) -> Float8Linear:
    made = Float8Linear(one.in_features, one.out_features, bias=False, device="meta")
    made.weight, made.bias = one.weight, one.bias
    return made.train(one.training)
