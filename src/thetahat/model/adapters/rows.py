"""Rows of new tokens: a small trained block beside the frozen rows of an embedding and of a head."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from thetahat.model.build import LanguageModel
from thetahat.model.law import TABLE, Constant, Law
from thetahat.model.layers.head import Head

NEW_ROWS = Law("embeddings", Constant(0.0))


@final
class EmbeddingWithRows(nn.Module):
    r"""$E_t + \Delta_{t - n}$ for the tokens $t \ge n$ that the base did not have, and $E_t$ for all others.

    E [V D] is frozen; $\Delta$ [V-n D] begins at 0, so the model begins as it would without.
    """

    laws: ClassVar[Mapping[str, Law]] = {"base.weight": TABLE, "new_rows": NEW_ROWS}

    def __init__(self, base: nn.Embedding, new_rows: nn.Parameter) -> None:
        super().__init__()
        self.base = base
        self.new_rows = new_rows

    def forward(self, tokens: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes D"]:
        num_old = self.base.num_embeddings - len(self.new_rows)
        table = torch.cat(
            [self.new_rows.new_zeros(1, self.new_rows.shape[1]), self.new_rows]
        )  # row 0: nothing is added
        return self.base(tokens) + embedding((tokens - num_old + 1).clamp(min=0), table, padding_idx=0)

    if TYPE_CHECKING:
        __call__ = forward


@final
class HeadWithRows(nn.Module):
    r"""The head with $(W + \Delta) h$ for the tokens that the base did not have; W [V D] frozen, $\Delta$ [V-n D].

    Only $\Delta$ gets a gradient: none of the size of W is ever made. With tied embeddings $\Delta$ is theirs, too.
    """

    laws: ClassVar[Mapping[str, Law]] = {"new_rows": NEW_ROWS}

    def __init__(self, base: Head, new_rows: nn.Parameter) -> None:
        super().__init__()
        self.base = base
        self.new_rows = new_rows

    def forward(self, hidden: Float[Tensor, "*axes D"], tokens: slice | None = None) -> Float[Tensor, "*axes V"]:
        """As of the head without."""
        first, last, _ = (tokens or slice(None)).indices(self.num_outputs)
        num_old = self.num_outputs - len(self.new_rows)
        logits = self.base.uncapped(hidden, tokens)
        if last > num_old:
            start = max(first, num_old)
            logits[..., start - first :] += linear(hidden, self.new_rows[start - num_old : last - num_old])
        return self.base.capped(logits)

    @property
    def weight(self) -> Float[Tensor, "V D"]:
        """The whole table, newly made."""
        num_old = self.num_outputs - len(self.new_rows)
        return torch.cat([self.base.weight[:num_old], self.base.weight[num_old:] + self.new_rows])

    @property
    def num_outputs(self) -> int:
        """V: how many tokens have logits."""
        return self.base.num_outputs

    if TYPE_CHECKING:
        __call__ = forward


def train_new_rows(model: LanguageModel, num_new: int, num_labels: int = 0) -> None:
    """Puts a trained block beside those rows of new tokens that are frozen, in the embedding and in the head.

    Where the two share a table they share the block. A head over labels has no rows of tokens.
    """
    table, head = model.embedding.weight, model.head
    if num_new == 0:
        return
    is_tied = head.weight is table
    if not table.requires_grad:
        new_rows = nn.Parameter(table.new_zeros(num_new, table.shape[1]))
        model.embedding = EmbeddingWithRows(model.embedding, new_rows)  # pyright: ignore[reportAttributeAccessIssue]
        if is_tied:
            model.head = HeadWithRows(head, new_rows)  # pyright: ignore[reportAttributeAccessIssue]
    if not (is_tied or num_labels or head.weight.requires_grad):
        new_rows = nn.Parameter(head.weight.new_zeros(num_new, head.weight.shape[1]))
        model.head = HeadWithRows(head, new_rows)  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def add_rows(table: Float[Tensor, "V D"], new_rows: Float[Tensor, "n D"]) -> None:
    """Adds rows of new tokens to the last ones of a table, in float64 and rounded once."""
    rows = table[-len(new_rows) :]
    rows.copy_(rows.double() + new_rows.double())


@torch.no_grad()
def merge_new_rows(model: LanguageModel) -> None:
    """Adds each block to the rows that it is beside, in float64 and rounded once, and takes it away."""
    merged: set[int] = set()
    for name in ("embedding", "head"):
        module = getattr(model, name)
        if not isinstance(module, EmbeddingWithRows | HeadWithRows):
            continue
        if id(module.new_rows) not in merged:  # a tied table is one table
            add_rows(module.base.weight, module.new_rows)
            merged.add(id(module.new_rows))
        setattr(model, name, module.base)
