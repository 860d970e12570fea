"""Latent attention: keys and values of all heads are made of one narrow latent of each position."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from thetahat.model.attention.attention import Way
from thetahat.model.attention.cache import LayerCache
from thetahat.model.config import LatentMixer, TransformerConfig
from thetahat.model.law import BIAS, MATRIX, VALUES, WRITER, WRITER_BIAS, Law
from thetahat.model.layers.norm import norm_of
from thetahat.model.layers.rope import rotate


@final
class LatentAttention(nn.Module):
    r"""$\mathrm{softmax}(s\,q_i k_j^\top)\,v_j$ with $k_j = [r_j; W^K c_j]$ and $v_j = W^V c_j$ for each head.

    $c_j = \mathrm{norm}(W^C x_j)$, of `latent_width`, and $r_j = \mathrm{rot}_j(W^R x_j)$, of `rotary_width`, are those
    of all heads, and all that is kept of a position. Queries are $[\mathrm{rot}_i(q^R_i); q^C_i]$ of x, or of a latent
    of their own, $\mathrm{norm}(W^Q x_i)$ of `query_width`. s is 1 over the root of the width of a key unless given.
    DeepSeek-V2, 2024 (arXiv 2405.04434), equations 9 to 19; what is rotated stands first here.

    A single position that reads a cache does so in the latents themselves: $q^C k^C = (q^C W^K) c$, and $W^V$ is
    applied to the mean of latents (section 2.1.2 there). So the keys and values of what was read are not made again.
    """

    laws: ClassVar[Mapping[str, Law]] = {
        **{f"{name}.weight": MATRIX for name in ("query_latent", "query", "latent", "rotary_key", "key")},
        "value.weight": VALUES,
        "output.weight": WRITER,
        "sinks": BIAS,
        "output.bias": WRITER_BIAS,
    }

    def __init__(self, config: TransformerConfig, mixer: LatentMixer) -> None:
        super().__init__()
        choices, inside = config.attention, config.num_heads * config.head_width
        self.num_heads, self.head_width = config.num_heads, config.head_width
        self.latent_width, self.rotary_width = mixer.latent_width, mixer.rotary_width
        self.query_latent = self.query_latent_norm = None
        if mixer.query_width is not None:
            self.query_latent = nn.Linear(config.width, mixer.query_width, bias=False)
            self.query_latent_norm = norm_of(config, mixer.query_width, mixer.norm_epsilon)
        queries = inside + config.num_heads * mixer.rotary_width
        self.query = nn.Linear(mixer.query_width or config.width, queries, bias=False)
        self.latent = nn.Linear(config.width, mixer.latent_width, bias=False)
        self.latent_norm = norm_of(config, mixer.latent_width, mixer.norm_epsilon)
        self.rotary_key = nn.Linear(config.width, mixer.rotary_width, bias=False)
        self.key, self.value = (nn.Linear(mixer.latent_width, inside, bias=False) for _ in range(2))
        self.output = nn.Linear(inside, config.width, bias=choices.has_output_bias)
        self.sinks = nn.Parameter(torch.zeros(config.num_heads)) if choices.sinks == "learned" else None
        self.has_sinks = choices.sinks != "none"
        # kernels multiply scores by 1 over the root of the width of a key
        self.stretch = 1.0 if choices.scale is None else choices.scale * config.key_width(mixer) ** 0.5

    def forward(self, x: Float[Tensor, "B T D"], way: Way, cache: LayerCache | None = None) -> Float[Tensor, "B T D"]:
        q = self._queries(x)
        q_BTHK = rotate(q.unflatten(-1, (self.num_heads, -1)), way.rotation)
        q_BHTK = (q_BTHK if self.stretch == 1.0 else q_BTHK * self.stretch).transpose(1, 2)
        sinks = q.new_zeros(self.num_heads) if self.has_sinks and self.sinks is None else self.sinks
        latent, rotary = self.latent_norm(self.latent(x)), rotate(self.rotary_key(x)[:, :, None], way.rotation)[:, :, 0]
        if cache is None:
            return self._read(q_BHTK, latent, rotary, way, sinks)
        new = torch.cat([latent, rotary], -1)[:, None]
        kept, _ = cache.append(new, new[..., :0])
        if x.shape[1] == 1 and all(isinstance(one, nn.Linear) for one in self.maps[-2]):  # without adapters
            return self._read_latents(q_BHTK, kept, way, sinks)
        latent, rotary = kept[:, 0].split([self.latent_width, self.rotary_width], -1)
        return self._read(q_BHTK, latent, rotary, way, sinks)

    @property
    def maps(self) -> list[list[nn.Module]]:
        """Its matrices by what they read, the states first."""
        behind: list[list[nn.Module]] = [[self.key, self.value], [self.output]]
        if self.query_latent is None:
            return [[self.query, self.latent, self.rotary_key], *behind]
        return [[self.query_latent, self.latent, self.rotary_key], [self.query], *behind]

    def _queries(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T X"]:
        if self.query_latent is None or self.query_latent_norm is None:
            return self.query(x)
        return self.query(self.query_latent_norm(self.query_latent(x)))

    def _read(
        self,
        q: Float[Tensor, "B H T K"],
        latent: Float[Tensor, "B S C"],
        rotary: Float[Tensor, "B S R"],
        way: Way,
        sinks: Float[Tensor, " H"] | None,
    ) -> Float[Tensor, "B T D"]:
        """With keys and values made of the latents."""
        k_BHSO, v_BHSO = (
            one(latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for one in (self.key, self.value)
        )
        shared = rotary[:, None].expand(-1, self.num_heads, -1, -1).to(k_BHSO.dtype)
        # values as wide as keys: the fused kernels of a CPU know no others
        read = way.attend(q, torch.cat([shared, k_BHSO], -1), pad(v_BHSO, (0, self.rotary_width)), sinks)
        return self.output(read[..., : self.head_width].transpose(1, 2).flatten(2))

    def _read_latents(
        self,
        q: Float[Tensor, "B H T K"],
        kept: Float[Tensor, "B 1 S X"],
        way: Way,
        sinks: Float[Tensor, " H"] | None,
    ) -> Float[Tensor, "B T D"]:
        """In the latents: all heads read the same keys, which are their values, too."""
        turned, plain = q.split([self.rotary_width, self.head_width], -1)
        asked = torch.einsum("bhto,hoc->bhtc", plain, self.key.weight.unflatten(0, (self.num_heads, -1)))
        asked = torch.cat([asked, turned.to(asked.dtype)], -1) * (kept.shape[-1] / q.shape[-1]) ** 0.5
        read = way.attend(asked, kept, kept, sinks)[..., : self.latent_width]
        values = torch.einsum("bhtc,hoc->bhto", read, self.value.weight.unflatten(0, (self.num_heads, -1)))
        return self.output(values.transpose(1, 2).flatten(2))

    if TYPE_CHECKING:
        __call__ = forward
