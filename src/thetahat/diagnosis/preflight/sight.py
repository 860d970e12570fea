"""Whether a position sees only what it may: no token after it, no other record of its row, no target in the open."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from thetahat.core.batch import Batch, Inputs
from thetahat.core.plain import counted
from thetahat.diagnosis.finding import Finding
from thetahat.diagnosis.preflight.probe import Probe

OFFSETS = (0, 1, 2, -1)  # of a target from the position that predicts it; 1 is right
MOST_OPEN = 0.5  # share of hidden targets that a position may read itself; `80-10-10` leaves 1 in 10


def future(probe: Probe) -> Iterator[Finding]:
    """Log-probabilities before a cut in each row, with other tokens behind it: they must stay the same to the bit.

    The cut is in the middle of the longest piece. What is open to all of its piece, such as a prompt, is not changed.
    """
    if probe.factorization.model_kind == "encoder":
        return
    seen = probe.batch.inputs.visibility
    is_read, place = seen.piece >= 0, torch.arange(seen.piece.shape[1])
    is_behind = place >= _cuts(seen.piece)[:, None]
    is_open = torch.zeros_like(is_read) if seen.is_open is None else seen.is_open
    changed = probe.with_others(is_behind & is_read & ~is_open)
    if moved := _moved(probe, changed, ~is_behind & is_read):
        yield Finding(
            "reads-the-future",
            f"{moved} when the tokens after it were replaced by others, which must change nothing",
            "look at the mask of attention: a position may see itself and what comes before it",
        )


def packing(probe: Probe) -> Iterator[Finding]:
    """Log-probabilities of every other record or piece of a row, with other tokens in the rest: the same to the bit."""
    units = _units(probe.batch)
    is_changed, is_watched = (units >= 0) & (units % 2 == 0), (units >= 0) & (units % 2 == 1)
    source = probe.batch.inputs.source
    other_source = None
    if source is not None:
        piece = source.inputs.visibility.piece
        other_source = torch.isin(piece, source.piece[is_changed]) & ~torch.isin(piece, source.piece[is_watched])
        other_source &= piece >= 0
    if moved := _moved(probe, probe.with_others(is_changed, other_source), is_watched):
        yield Finding(
            "leak-between-documents",
            f"{moved} when another document of its row was replaced, which must change nothing",
            "look at the mask of attention: pieces of a row may not see each other",
        )


def shift(probe: Probe) -> Iterator[Finding]:
    """Every target must be the token behind the position that predicts it; what is hidden may not be read."""
    batch = probe.batch
    is_target = batch.weights != 0
    if probe.factorization.model_kind == "encoder":
        share = _share(batch.inputs.tokens == batch.targets, is_target)
        if probe.factorization.hides_targets and share > MOST_OPEN:
            yield Finding(
                "reads-its-targets",
                f"{share:.0%} of the targets are read where they should be hidden",
                "look at the factorization: a target must be read as another token",
            )
        return
    matches = {offset: _matches(batch, offset, is_target) for offset in OFFSETS}
    best = max(OFFSETS, key=lambda offset: matches[offset])
    if matches[1] < 1:
        others = f"; {matches[best]:.0%} are {best} positions behind" if best != 1 else ""
        yield Finding(
            "shifted-targets",
            f"{matches[1]:.0%} of the targets are the token behind the position that predicts them, not all{others}",
            "look at how targets are taken from tokens: position j reads token j and predicts token j + 1",
        )


def _cuts(piece: Int[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """The middle of the longest piece of each row."""
    cuts: list[int] = []
    for row in piece:
        known, counts = row[row >= 0].unique(return_counts=True)
        where = (row == known[counts.argmax()]).nonzero()[:, 0] if len(known) else torch.zeros(1, dtype=torch.int64)
        cuts.append(int(where[len(where) // 2]))
    return torch.tensor(cuts)


def _units(batch: Batch) -> Int[Tensor, "B T"]:
    """A number for each record and piece (or tree of pieces) of a row, consecutive in a row; -1: nothing is read."""
    root = batch.inputs.visibility.root()
    names = [part.id for part in batch.parts.named()]
    known = {name: index for index, name in enumerate(dict.fromkeys(names))}
    record = torch.tensor([known[name] for name in names])[batch.part]
    row = torch.arange(len(root))[:, None].expand_as(root)
    _, unit = torch.stack([row, root, record], -1).flatten(0, 1).unique(dim=0, return_inverse=True)
    unit = torch.where(root >= 0, unit.view_as(root), -1)
    return torch.where(unit >= 0, torch.searchsorted(unit[unit >= 0].unique(), unit), -1)


def _moved(probe: Probe, changed: Inputs, watched: Bool[Tensor, "B T"]) -> str:
    """What has changed among the watched log-probabilities; empty if nothing has."""
    if not watched.any():
        return ""
    before, after = probe.before, probe.log_probs(changed)
    differs = (before != after) & watched & ~(before.isnan() & after.isnan())
    if not differs.any():
        return ""
    most = float((after - before)[differs].abs().max())
    number = counted(int(differs.sum()), "log-probability", "log-probabilities")
    return f"{number} of {int(watched.sum()):,} changed, by up to {most:.2g} nats,"


def _matches(batch: Batch, offset: int, is_target: Bool[Tensor, "B T"]) -> float:
    """The share of targets that are the token at this offset, of those where it lies in the same piece."""
    tokens, piece = batch.inputs.tokens, batch.inputs.visibility.piece
    there, same = tokens.roll(-offset, 1), piece.roll(-offset, 1) == piece
    place = torch.arange(tokens.shape[1])
    same &= (place + offset >= 0) & (place + offset < len(place))
    return _share(there == batch.targets, is_target & same)


def _share(holds: Bool[Tensor, "B T"], among: Bool[Tensor, "B T"]) -> float:
    """Of those among which it is asked; 1 where there are none."""
    return float(holds[among].double().mean()) if bool(among.any()) else 1.0
