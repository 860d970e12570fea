"""How the rows of a ledger were scored, as values that can be compared. This module needs no torch."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from thetahat.core.config import Config, kind_of
from thetahat.core.errors import DataError
from thetahat.objective.config import Causal, Factorization, Normalization

POLICY = "policy"  # the key of a ledger's metadata


class Policy(Config):
    """Everything that a document's likelihood may depend on, but the parameters and the text."""

    context: int
    stride: int
    batch_size: int = 16
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    deterministic: bool = False  # bitwise the same for every batch size, order and number of ranks
    factorization: Factorization = Causal()
    passes: int = 0
    reads_parts_together: bool = False  # all turns of a dialogue in one pass
    delimiter: str | None = None  # of multiple choice: between a context and a choice that bring no blank
    over_long: str | None = None  # of multiple choice: what becomes of a context that is too long
    chat: bool = False  # of multiple choice: a context is what a user says, in the template of training
    during: Literal["scoring", "training", "one step"] = "scoring"  # where the rows come from
    normalization: Normalization | None = None  # of the objective, where rows come from training

    def words(self) -> str:
        """As people read it."""
        if self.during != "scoring":
            what = f"{self.during}: {kind_of(self.factorization)}, normalization={self.normalization}"
            return f"{what}, context={self.context}, dtype={self.dtype}"
        what, settings = self.factorization.scored_as(self.passes)
        how = [f"window(stride={self.stride})", f"context={self.context}", f"dtype={self.dtype}"]
        how += ["parts in one pass"] if self.reads_parts_together else []
        choices = [f"delimiter={self.delimiter!r}"] if self.delimiter is not None else []
        choices += [f"over_long={self.over_long}"] if self.over_long is not None else []
        choices += ["contexts in the chat template"] if self.chat else []
        return ", ".join([*what, *how, *settings, *choices])

    def to_json(self) -> str:
        """As it is kept in a ledger."""
        return msgspec.json.encode(self).decode()


def read_policy(metadata: Mapping[str, str], name: str) -> Policy | None:
    """The policy in the metadata of the ledger `name`, None if it has none."""
    if not (text := metadata.get(POLICY, "")):
        return None
    try:
        return msgspec.json.decode(text, type=Policy)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DataError(
            f"{name} does not say how it was scored in a form that can be compared: its policy is {text[:80]!r}",
            allowed="a ledger that score of this version wrote",
            cure="score the text anew: thetahat score MODEL DATA --out ledger.parquet",
        ) from error


def same_question(a: Policy | None, b: Policy | None, *, is_whole: bool) -> bool:
    """Whether rows that were scored under both can be compared.

    Batch size, dtype and turns read together change the last digits only. The window counts only where a text was not
    read whole (`is_whole`: under both, all were). All likelihoods are one quantity: what an encoder-decoder gives a
    completion and what a decoder gives it after the same prompt. Rows of training answer none: parameters change from
    one to the next, and what is hidden or dropped is drawn anew in each step.
    """
    if a is None or b is None:
        return a is b
    if {a.during, b.during} != {"scoring"}:
        return False
    return _question(a, is_whole) == _question(b, is_whole)


def _question(policy: Policy, is_whole: bool) -> tuple[object, ...]:
    kind = policy.factorization
    what = "likelihood" if kind.is_likelihood else kind.scored_as(policy.passes)
    window = () if is_whole else (policy.context, policy.stride)
    return what, window, policy.delimiter, policy.over_long, policy.chat
