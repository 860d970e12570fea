"""The watch over a run as it begins or goes on: what it must know, where it left off, what it calls sequences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from thetahat.data.corpus.corpus import Corpus
from thetahat.diagnosis.alarms.alarm import OF_SEQUENCES, Alarm, Suspect
from thetahat.diagnosis.alarms.detector import Detector
from thetahat.diagnosis.alarms.setting import Setting
from thetahat.diagnosis.signals.regions import regions_of
from thetahat.diagnosis.signals.seen import Seen, Worst
from thetahat.distribution.world import World
from thetahat.run.diagnosis.watch import AlarmLog, Watch
from thetahat.run.diagnosis.webhook import Webhook
from thetahat.run.prepare import Prepared
from thetahat.run.state import State

MOST_TOKENS = 2**22  # of which the shares are counted
MOST_CHARACTERS = 400  # of a sequence's text
STANDS_OUT = 0.5  # of the worst sequence's excess, from which on another one is named beside it


def begin_watch(
    prepared: Prepared, state: State, folder: Path, world: World, kept: Mapping[str, Any] | None
) -> Watch | None:
    """The watch over a run; `kept` is what the checkpoint has of it. None where diagnosis.alarms=false."""
    config = state.config
    if not config.diagnosis.alarms:
        return None
    setting = Setting(
        config.optimization,
        state.num_steps,
        config.first_step,
        is_drawn=config.base is None and config.parent is None,
        regions=regions_of(state.model),
        unigram_entropy=None if config.objective.factorization.is_pseudo else _entropy(prepared.train),
        patience=config.diagnosis.patience,
    )
    detector = Detector(setting)
    if kept and kept["detector"]:
        detector.load(kept["detector"])
    hook = Webhook(config.diagnosis.webhook) if config.diagnosis.webhook and world.is_first else None
    log = AlarmLog(folder, kept["bytes"] if kept else 0, hook) if world.is_first else None

    def suspects(alarm: Alarm, seen: Seen) -> tuple[Suspect, ...]:
        """Made on the first rank, which writes them; it makes the batches of other ranks, too."""
        if log is None or alarm.name not in OF_SEQUENCES:
            return ()
        odd = [worst for worst in seen.worst if worst.excess >= STANDS_OUT * seen.excess]
        return tuple(_suspect(prepared, world.data.size, seen.step - 1, worst) for worst in odd)

    return Watch(state, detector, world, suspects, log)


def _entropy(corpus: Corpus) -> float | None:
    r"""$-\sum_t p_t \ln p_t$ of the shares of tokens in the training data, in its first 4 million tokens."""
    if corpus.layout.predicts_label or not len(corpus.tokens):
        return None
    counts = np.bincount(corpus.tokens[:MOST_TOKENS].astype(np.int64))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _suspect(prepared: Prepared, num_ranks: int, step: int, worst: Worst) -> Suspect:
    index = worst.piece
    for batch in prepared.batches(step, World(worst.rank, num_ranks)):
        piece = batch.inputs.visibility.piece
        if index >= (num_pieces := int(piece.max()) + 1):
            index -= num_pieces
            continue
        at = piece == index
        counts = at & (batch.weights != 0)
        part = batch.parts.named([int(batch.part[counts][0])])[0]
        text = prepared.tokenizer.decode(batch.inputs.tokens[at].tolist())[:MOST_CHARACTERS]
        return Suspect(part.id, part.source, worst.num_tokens, worst.nats, text)
    raise AssertionError(f"step {step + 1} has no sequence {worst}")
