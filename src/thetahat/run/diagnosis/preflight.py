"""The checks before the first step, on the run's own model and data."""

import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from logging import getLogger

from thetahat.core.errors import VerificationError
from thetahat.core.plain import counted, duration
from thetahat.core.work.phases import phase
from thetahat.diagnosis.finding import Finding
from thetahat.diagnosis.preflight.budget import epochs, schedule
from thetahat.diagnosis.preflight.check import check
from thetahat.diagnosis.preflight.memory import memorise
from thetahat.diagnosis.preflight.probe import Probe
from thetahat.diagnosis.preflight.records import records
from thetahat.diagnosis.preflight.vocabulary import unused_tokens
from thetahat.distribution.world import World
from thetahat.model.transfer.rule import growth_of
from thetahat.objective.factorization import factor
from thetahat.run.config import RunConfig
from thetahat.run.diagnosis.evaluated import evaluation_differs
from thetahat.run.prepare import Prepared
from thetahat.run.state import State

MOST_POSITIONS = 1024  # that the checks read, in whole rows: more would cost time and show nothing else

logger = getLogger("thetahat")


def preflight(prepared: Prepared, state: State, world: World) -> list[Finding]:
    """Makes all checks, logs what they find, and raises VerificationError if something is wrong, on all ranks.

    Every rank reads the same rows, so that all come to the same end. The state is left as it was, to the bit.
    """
    chosen, began = state.config.diagnosis.preflight, time.perf_counter()
    with phase("checking before the first step"):
        found = _found(prepared, state, world)
    wrong = [finding for finding in found if finding.is_wrong]
    stops = world.any(bool(wrong) and chosen == "stop")
    if world.is_first:
        told = f"{len(found)} found" if found else "nothing found"
        logger.info("checked before the first step in %s: %s", duration(max(time.perf_counter() - began, 1.0)), told)
    for finding in found if world.is_first else ():
        if not (stops and finding.is_wrong):
            logger.warning("%s", finding)
    if stops:
        raise VerificationError(
            f"before the first step, {counted(len(wrong), 'check fails', 'checks fail')}:"
            + "".join(f"\n    {finding}" for finding in wrong),
            cure="diagnosis.preflight=warn to train nevertheless, =off to check nothing",
        )
    return found


def memory(probe: Probe, config: RunConfig) -> Iterator[Finding]:
    """Whether one micro-batch can be learned by heart, where diagnosis.memorize asks for it."""
    most = config.diagnosis.memorize
    if not most:
        return
    found = memorise(probe, config.optimization, most)
    told = f"{found.first:.3f} to {found.last:.3f} nats a target in {counted(found.num_updates, 'update')}"
    if found.is_learned:
        logger.info("one micro-batch was learned by heart: from %s", told)
        return
    yield Finding(
        "cannot-memorise",
        f"one micro-batch is not learned by heart: from {told}, and {found.bound:.3f} was to be reached",
        f"diagnosis.memorize={10 * most} for more updates; if it stays there, the rate, the model's shape or frozen",
    )


def _found(prepared: Prepared, state: State, world: World) -> list[Finding]:
    """What all checks find; those of the whole data are made on the first rank."""
    config = state.config
    probe = probe_of(prepared, state)
    found = check(probe)
    found += evaluation_differs(prepared, state, probe)
    found += memory(probe, config)
    found += schedule(config.optimization, state.num_steps)
    found += epochs(state.num_steps, prepared.order.num_batches(0))
    if world.is_first:
        found += records(prepared.train)
        if config.base is None and config.parent is None:
            found += unused_tokens(prepared.train, prepared.tokenizer.num_bytes)
    return found


def probe_of(prepared: Prepared, state: State) -> Probe:
    """The first rows of the batch of the next step, at the state before it."""
    config = state.config
    rows = min(max(MOST_POSITIONS // config.data.context, 1), config.batch_size)
    packed = prepared.order.packed(state.step + prepared.offset, micro_batch_size=rows)[0]
    names = [name for name, _ in state.model.named_parameters()]
    trained = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in config.frozen)]
    return Probe(
        state.model,
        state.optimizer,
        state.kernel,
        factor(packed, config.objective, prepared.train.symbols),
        config.objective.factorization,
        config.dtype,
        state.device,
        is_drawn=config.base is None and config.parent is None,
        trained=None if config.adapter else frozenset(trained),
        growth=growth_of(config.model, config.transfer),
    )
