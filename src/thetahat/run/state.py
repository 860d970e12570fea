"""What changes during a run."""

from dataclasses import dataclass
from logging import getLogger

import torch
from msgspec.structs import replace

from thetahat.core.work.threads import Pool, Workers
from thetahat.distribution.mesh import MeshConfig
from thetahat.distribution.pieces import fill, is_in_shards, settle
from thetahat.distribution.world import ALONE, World
from thetahat.ledger.evaluated import Evaluated
from thetahat.model.adapters.lora import adapt, freeze
from thetahat.model.adapters.rows import train_new_rows
from thetahat.model.block import Block
from thetahat.model.build import LanguageModel, build_model
from thetahat.model.float8 import left_out_of, multiply_in_float8
from thetahat.model.init import allocate, initialize
from thetahat.model.layers.experts import routers_of
from thetahat.model.precision import parameter_dtype
from thetahat.model.transfer.rule import fitted, growth_of, refuse_unknown
from thetahat.objective.chunked import build_kernel
from thetahat.objective.log_prob import Kernel
from thetahat.optimization.average import MovingAverage
from thetahat.optimization.optimizer import Optimizer, build_optimizer
from thetahat.run.config import RunConfig
from thetahat.run.together import refuse_division


@dataclass
class State:
    """The model, its optimizer and its progress; everything random is a function of the step."""

    config: RunConfig
    device: torch.device
    model: LanguageModel
    optimizer: Optimizer
    kernel: Kernel  # of the objective
    num_steps: int  # where the schedule ends
    workers: Pool  # that read micro-batches
    step: int = 0  # updates made
    tokens: int = 0  # targets learned from
    seconds: float = 0.0  # of training, evaluations included
    best: Evaluated | None = None
    average: MovingAverage | None = None  # of the parameters


_CPU = torch.device("cpu")
logger = getLogger("thetahat")


def model_on_meta(config: RunConfig, vocab_size: int, num_labels: int = 0) -> LanguageModel:
    """The model of a run, with its adapters and what is frozen, on `meta`: shapes alone.

    Rows of a base's table that none of its tokens uses stay in the softmax; new tokens take the first of them.
    """
    num_rows = max(vocab_size, config.base_rows or 0)
    model = build_model(fitted(config.model, config.transfer, has_labels=num_labels > 0), num_rows, num_labels)
    refuse_unknown(model, config.model, growth_of(config.model, config.transfer))
    if config.adapter:
        adapt(model, config.adapter, config.seed, num_labels)
    freeze(model, config.frozen)
    if config.base_vocab_size and vocab_size > config.base_vocab_size:
        train_new_rows(model, num_rows - config.base_vocab_size, num_labels)
    return model


def divided_on_meta(config: RunConfig, vocab_size: int, num_labels: int, world: World) -> LanguageModel:
    """The same, as ranks that compute each product together have it; raises ConfigError where they cannot."""
    model = model_on_meta(config, vocab_size, num_labels)
    stages = world.layout.stages
    mesh = MeshConfig(pipeline=stages.share.size, turns=stages.turns) if stages else MeshConfig()
    refuse_division(config, model, replace(mesh, tensor=world.product.size))
    if world.layout.tensor is not None:
        from thetahat.distribution.tensor import split  # imports DTensor

        split(model, world.layout.tensor)
    return model


def first_model(
    config: RunConfig,
    vocab_size: int,
    device: torch.device = _CPU,
    num_labels: int = 0,
    *,
    world: World = ALONE,
    draws: bool = True,
) -> LanguageModel:
    """A model with its first parameters, on the device and in the dtype of the run, in pieces where the world says so.

    Without `draws` they have no values yet, and all of them must be loaded. No rank ever holds more than its pieces.
    """
    model, homes = divided_on_meta(config, vocab_size, num_labels, world), {}
    if config.float8:
        multiply_in_float8(model)
    if world.layout.stages is not None:
        from thetahat.distribution.pipeline.stage import divide

        homes = divide(model, world.layout.stages, parameter_dtype(config.dtype))
    if world.layout.shards is not None:
        from thetahat.distribution.shard import Policy, shard  # imports FSDP, which takes a second

        units = [module for module in model.modules() if isinstance(module, Block)]
        products = torch.bfloat16 if config.dtype == "bfloat16" else None
        kept = [router.weight for router in routers_of(model).values()]  # they are multiplied with in float32
        shard(model, units, _METHODS, world.layout.shards, Policy(products, on_host=config.mesh.offload), kept)
    allocate(model, device, parameter_dtype(config.dtype), is_in_shards if config.mesh.offload else None)
    settle(model, homes)
    if draws:
        initialize(model, config.seed, fill, growth_of(config.model, config.transfer))
    return model


_METHODS = (
    "hidden",
    "hidden_ahead",
    "encode",
    "read",
    "decode",
)  # of a model, by which others than its own modules call it


def first_state(
    config: RunConfig,
    vocab_size: int,
    num_steps: int,
    device: torch.device,
    num_labels: int = 0,
    *,
    world: World = ALONE,
) -> State:
    """The state at step 0."""
    return state_with(first_model(config, vocab_size, device, num_labels, world=world), config, num_steps, device)


def state_with(model: LanguageModel, config: RunConfig, num_steps: int, device: torch.device) -> State:
    """The state at step 0 of a model whose parameters are drawn, or will be loaded."""
    if config.float8 and (left_out := left_out_of(model)):
        logger.info("float8=true leaves out %s, whose widths are no multiples of 16", ", ".join(left_out))
    if config.compile:
        _compile(model)
    kernel = build_kernel(config.objective, compiles=config.compile)
    optimizer = build_optimizer(model, config.optimization, growth_of(config.model, config.transfer))
    workers = Workers(config.num_at_once, max(config.threads // config.num_at_once, 1))
    state = State(config, device, model, optimizer, kernel, num_steps, workers)
    if (decay := config.optimization.ema) is not None:
        state.average = MovingAverage({name: p for name, p in model.named_parameters() if p.requires_grad}, decay)
    return state


MOST_GRAPHS = 64
"""Of blocks: as many as they are kinds, for each kind of batch, with a gradient and without. What is beyond torch's own
limit of 8 would run without a compiler.
"""


def _compile(model: LanguageModel) -> None:
    """Has each block compiled alone, when it is called."""
    dynamo = torch._dynamo.config  # pyright: ignore[reportPrivateUsage]
    dynamo.recompile_limit = max(dynamo.recompile_limit, MOST_GRAPHS)
    for block in model.modules():
        if isinstance(block, Block):
            block.compile()
