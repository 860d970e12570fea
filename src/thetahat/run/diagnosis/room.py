"""Whether a training fits into the memory of this machine, said before anything large is made."""

from logging import getLogger

import torch
from msgspec.structs import replace

from thetahat.core.plain import counted, sized
from thetahat.distribution.world import World
from thetahat.run.config import RunConfig
from thetahat.run.diagnosis.fitting import fitting_pairs
from thetahat.run.diagnosis.needed import Training, training_memory
from thetahat.run.machine import free_memory
from thetahat.run.prepare import Prepared
from thetahat.run.state import first_model

WORTH_SAYING = 0.5  # of the memory that is free

logger = getLogger("thetahat")


def tell_room(prepared: Prepared, device: torch.device, world: World) -> None:
    """Logs how much memory training needs, where that is much of what is free, and what to type where it is more."""
    if not world.is_first:
        return
    free, needed = free_memory(device), needed_of(prepared, prepared.config)
    if needed.total < WORTH_SAYING * free:
        return
    at_once = f"{counted(needed.num_rows, 'row')} of {needed.context:,} positions at once"
    told = f"training needs about {sized(needed.total)} of memory, with {at_once}, and {sized(free)} are free"
    if needed.total <= free:
        logger.info("%s", told)
    else:
        logger.warning("%s: it may end for want of memory; try: %s", told, fitting(prepared, free))


def recomputed_layers(prepared: Prepared, device: torch.device, world: World) -> int:
    """The layers that `recompute` names; for `auto` the fewest with which training needs no more than is free.

    The first rank decides for all, since ranks that recompute other layers would wait for each other in vain.
    """
    config = prepared.config
    if config.recompute != "auto":
        return config.recompute
    number, most = 0, config.model.num_layers
    if world.is_first:
        free = free_memory(device)
        while number < most and needed_of(prepared, replace(config, recompute=number)).total > free:
            number += 1
    if (number := world.largest(number)) and world.is_first:
        logger.info("recompute=auto: %s computed again in the backward pass", counted(number, "layer is", "layers are"))
    return number


def needed_of(prepared: Prepared, config: RunConfig) -> Training:
    """The memory of training under a config; rows have no more positions than there are in an epoch."""
    num_labels = len(prepared.labels)
    model = first_model(config, prepared.tokenizer.vocab_size, torch.device("meta"), num_labels, draws=False)
    train = prepared.train
    most = train.num_tokens + train.num_documents
    return training_memory(model, config, prepared.tokenizer.vocab_size, num_labels, most)


def fitting(prepared: Prepared, free: int) -> str:
    """The KEY=VALUE pairs that change least and need no more than this."""
    return fitting_pairs(prepared.config, lambda config: needed_of(prepared, config).total, free)
