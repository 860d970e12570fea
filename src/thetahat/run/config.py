"""The config of a run."""

from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec.structs import force_setattr, replace

from thetahat.core.config import (
    Config,
    changed_keys as all_changed_keys,
    differences as all_differences,
    digest as digest_of,
    kind_of,
    pairs_between,
)
from thetahat.core.errors import ConfigError
from thetahat.core.plain import tidied
from thetahat.data.config import DataConfig
from thetahat.diagnosis.config import DiagnosisConfig
from thetahat.distribution.limits import HeartbeatConfig
from thetahat.distribution.mesh import MeshConfig
from thetahat.generation.config import SamplesConfig
from thetahat.model.adapters.config import LoRAConfig
from thetahat.model.config import DecoderConfig, Dtype, ModelConfig
from thetahat.model.transfer.config import TransferConfig
from thetahat.objective.config import FACTORIZATIONS, ObjectiveConfig
from thetahat.optimization.config import OptimizationConfig
from thetahat.scoring.config import EvaluationConfig, ScoringConfig

Count = Annotated[int, Meta(ge=1, le=2**40)]
Device = Literal["auto", "cpu", "cuda"]
Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]
Threads = Annotated[int, Meta(ge=0, le=1024)]  # of the CPU; 0: all

LEAST_AT_ONCE = 256
"""Positions that a thread reads at once: adding its gradient to the others' then takes some per cent of its time."""
MOST_AT_ONCE = 8
"""Micro-batches that are read at once: each has a gradient of its own, as large as the parameters."""
FIXED = (
    "model",
    "transfer",
    "adapter",
    "base",
    "base_digest",
    "base_vocab_size",
    "base_rows",
    "data.vocab_size",
    "data.tokenizer",
    "data.special_tokens",
)
"""Keys, and tables of them, on which names, shapes or rows of the parameters depend: no branch can change them."""

FREE = ("model.dropout",)  # of these tables, what no parameter depends on


class CheckpointConfig(Config, kw_only=True):
    """When to save, and how many of the newest checkpoints to keep; the best one is kept, too. Step 0 is saved."""

    every: Annotated[int, Meta(ge=0)] = 0
    """Steps between two checkpoints; 0: only at the start and at the end."""
    keep: Count = 2
    """How many of the newest checkpoints are kept; the best is kept, too."""


class LedgerConfig(Config, kw_only=True):
    """What the training ledger records."""

    every: Annotated[int, Meta(ge=0)] = 1
    """Steps between two steps whose sequences get a row; 1: all steps, 0: none."""
    tokens: bool = False
    """Whether the log-probability of each token is recorded, too."""


class EvaluationTimes(Config, kw_only=True):
    """When the held-out part is scored, and how much of it."""

    every: Annotated[int, Meta(ge=0)] = 0
    """Steps between two evaluations of what is held out; 0: only at the end."""

    final: bool = True
    """Whether what is held out is evaluated after the last step, too."""

    max_documents: Annotated[int, Meta(ge=1)] | None = None
    """Held-out documents that an evaluation scores, always the same, chosen by their digests; none: all of them."""


class WatchConfig(Config, kw_only=True):
    """How a run is watched. No parameter depends on it, so it may change when the run is resumed."""

    evaluation: EvaluationTimes = EvaluationTimes()
    """When what is held out is scored."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When checkpoints are saved, and how many are kept."""
    ledger: LedgerConfig = LedgerConfig()
    """What the ledger of the run records."""
    diagnosis: DiagnosisConfig = DiagnosisConfig()
    """What looks for faults, before the run and during it."""
    samples: SamplesConfig = SamplesConfig()
    """What is written while the run trains."""
    track: tuple[Tracker, ...] = ()
    """Where else the run is shown, beside its folder: tensorboard, wandb, trackio, mlflow, each by its own library."""
    prompt: str = ""
    """A text that is continued when training ends; empty: none."""
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    """How long several ranks wait for one that is lost or hangs."""

    def evaluates(self, step: int, num_steps: int) -> bool:
        """Whether the held-out part is scored after this step."""
        return _is_due(step, num_steps, self.evaluation.every) and (self.evaluation.final or step < num_steps)

    def writes(self, step: int, num_steps: int) -> bool:
        """Whether samples are written after this step."""
        every = self.samples.every
        is_due = _is_due(step, num_steps, every) if every else self.evaluates(step, num_steps)
        return bool(self.samples.prompts) and is_due

    def evaluations_after(self, step: int, num_steps: int) -> int:
        """How many evaluations come after this step."""
        every = self.evaluation.every
        at = [num_steps] if self.evaluation.final and num_steps > step else []
        if not every:
            return len(at)
        return (num_steps - 1) // every - step // every + len(at) if num_steps > step else 0

    def saves(self, step: int, num_steps: int) -> bool:
        """Whether an uninterrupted run saves a checkpoint after this step; step 0 is always saved."""
        return _is_due(step, num_steps, self.checkpoint.every)


def _is_due(step: int, num_steps: int, every: int) -> bool:
    """After the last step, and after each `every` (0: only then)."""
    return step == num_steps or (every > 0 and step > 0 and step % every == 0)


class InferenceConfig(Config, kw_only=True):
    """How a trained model computes: on which device, in which dtype, in batches of which size."""

    device: Device = "auto"
    """Where to compute; auto: a GPU if there is one."""
    dtype: Dtype = "float32"
    """The dtype of matrix products; parameters stay float32 under bfloat16."""
    threads: Threads = 0
    """Threads of the CPU; 0: all cores that this process may use."""
    deterministic: bool = False
    """Whether only deterministic kernels are used."""
    evaluation: ScoringConfig = ScoringConfig()
    """How text is scored."""


class ParentConfig(Config, kw_only=True):
    """The checkpoint whose whole state a branched run begins from; `th.branch` fills this in."""

    run: str
    """Its run folder, where it was; its digest finds it elsewhere."""
    step: Annotated[int, Meta(ge=0)]
    """The step of the checkpoint."""
    digest: str
    """The digest of the checkpoint's manifest, which names every byte of it."""
    changes: tuple[str, ...] = ()
    """What differs from the parent's config, a line `key: theirs -> ours` each."""


class RunConfig(Config, kw_only=True):
    """A training run: everything that its result depends on, and how it is watched."""

    recipe: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """The name that the run folder begins with."""
    seed: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """The number that every random choice comes from: initial parameters, order, masks, dropout."""
    device: Device = "auto"
    """Where to train; auto: on a GPU if there is one."""
    dtype: Dtype = "float32"
    """The dtype of matrix products; parameters, gradients and optimizer state stay float32 under bfloat16."""
    float8: bool = False
    """Whether maps of blocks multiply in float8 in training, a scale a row; gradients of matrices stay in bfloat16."""
    threads: Threads = 0
    """Threads of the CPU; 0: all cores that this process may use. Results depend on it, so the number is kept."""
    deterministic: bool = False
    """Whether only deterministic kernels are used, which makes a run on a GPU repeatable bit by bit."""
    compile: bool = False
    """Whether blocks are compiled by torch.compile."""
    data: DataConfig
    """What to train on, what to hold out, and how documents are laid into rows."""
    model: ModelConfig
    """The shape of the model; of a run with a base that one's, but for its dropout."""
    transfer: TransferConfig | None = None
    """The shape at which learning rates were chosen, from which they are carried over to this one; none: they are
    taken as they are.
    """
    parent: ParentConfig | None = None
    """The checkpoint whose whole state the run begins from; thetahat train --branch fills it in."""
    base: str | None = None
    """The model to start from: a run, a checkpoint, a folder of transformers, or hf:owner/name; none: from the
    beginning.
    """
    base_digest: str | None = None
    """The digest of the base's parameters; filled in when the run begins, and held to from then on."""
    base_vocab_size: int | None = None
    """Tokens that the base has; filled in when the run begins. Those behind them are new."""
    base_rows: int | None = None
    """Rows of the base's table of tokens, where there are more than its tokenizer has ids; filled in when the run
    begins.
    """
    adapter: LoRAConfig | None = None
    """Low-rank adapters (LoRA) that are trained beside the frozen base; none: the parameters themselves are trained."""
    frozen: tuple[str, ...] = ()
    """Patterns of parameters that are not trained, for example embedding.*"""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is maximised, and how it is computed."""
    optimization: OptimizationConfig
    """How parameters are updated."""
    batch_size: Count
    """Rows of data.context positions in one step, over all ranks and micro-batches."""
    micro_batch_size: Count | None = None
    """Rows that one rank reads at once; gradients of a step's micro-batches are added. none: all of the rank's rows."""
    recompute: Annotated[int, Meta(ge=0, le=2**20)] | Literal["auto"] = 0
    """Layers that keep their input alone and are computed again in the backward pass: less memory, more time, the same
    numbers. auto: none if training fits into memory without, else all.
    """
    mesh: MeshConfig = MeshConfig()
    """How the ranks share the work. No result depends on it beyond rounding, so it may change when a run goes on."""
    max_steps: Count
    """Steps of the run, over which the schedule goes."""
    max_tokens: Count | None = None
    """The run ends at the first step that has learned from so many targets, if that is earlier than max_steps; none:
    no limit.
    """
    skip_steps: tuple[Count, ...] = ()
    """Steps that make no update: their batch is read, its likelihood is logged, and it is left out of the objective."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How and when what is held out is scored."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When checkpoints are saved, and how many are kept."""
    ledger: LedgerConfig = LedgerConfig()
    """What the ledger of the run records."""
    diagnosis: DiagnosisConfig = DiagnosisConfig()
    """What looks for faults, before the run and during it."""
    samples: SamplesConfig = SamplesConfig()
    """What is written while the run trains."""
    mesh: MeshConfig = MeshConfig()
    """How the ranks share the work."""
    track: tuple[Tracker, ...] = ()
    """Where else the run is shown, beside its folder: tensorboard, wandb, trackio, mlflow, each by its own library."""
    prompt: str = ""
    """A text that is continued when training ends; empty: none."""
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    """How long several ranks wait for one that is lost or hangs."""

    def __post_init__(self) -> None:
        force_setattr(self, "base", self.base and tidied(self.base))
        force_setattr(self, "skip_steps", tuple(sorted(set(self.skip_steps))))
        model, factorization = kind_of(self.model), self.objective.factorization
        if factorization.model_kind != model:
            fitting = [name for name, kind in FACTORIZATIONS.items() if kind.model_kind == model]
            raise ConfigError(
                f"model.kind={model} does not compute objective.factorization.kind={kind_of(factorization)}",
                allowed=f"for a model of the kind {model}: {', '.join(fitting)}",
                cure=f"model.kind={factorization.model_kind}, or another factorization",
            )
        if factorization.opens_prompts and len(self.model.attentions) < len(self.model.layers):
            raise ConfigError(
                f"objective.factorization.kind={kind_of(factorization)} reads prompts both ways, and model.layers has "
                "layers that read from left to right alone",
                allowed="attention in all layers, or another factorization",
                cure="objective.factorization.kind=causal",
            )
        room = max(self.data.context, self.data.source_room if model == "encoder-decoder" else 0)
        if (limit := self.model.max_positions) is not None and room > limit:
            key = "data.context" if room == self.data.context else "data.source_context"
            raise ConfigError(
                f"{key}={room} is more than the {limit} positions that the model has learned", cure=f"{key}={limit}"
            )
        if self.ledger.tokens and self.mesh.context > 1:
            raise ConfigError(
                f"ledger.tokens=true with mesh.context={self.mesh.context}: no rank has all tokens of a sequence",
                cure="ledger.tokens=false, or mesh.context=1",
            )
        self._check_future()
        if self.adapter and not self.base:
            raise ConfigError("an adapter without a model to adapt", cure="base=MODEL, for example base=runs/NAME")
        if self.transfer and self.base:
            raise ConfigError(
                "transfer says how parameters begin, and base brings them",
                cure="leave transfer out, or train without a base",
            )
        if self.evaluation.passes and not factorization.is_pseudo:
            raise ConfigError(f"evaluation.passes={self.evaluation.passes}", allowed="0, where nothing is masked")

    def _check_future(self) -> None:
        if self.base and not self.base_digest:
            return  # the base has yet to say how many blocks there are
        number = self.model.num_future if isinstance(self.model, DecoderConfig) else 0
        given = self.objective.future
        if len(given) != number:
            weights = f"objective.future=[{', '.join(['0.3'] * number)}]"
            is_free = isinstance(self.model, DecoderConfig) and not self.base
            raise ConfigError(
                f"objective.future={list(given)} beside model.num_future={number}: each token behind the next one has "
                "one weight",
                allowed=f"{number} weights" if number != 1 else "one weight",
                cure=f"model.num_future={len(given)}, or {weights}" if is_free and given else weights,
            )
        if number and self.adapter:
            raise ConfigError(
                f"an adapter for a model with model.num_future={number}: its blocks for tokens behind the next one "
                "would be frozen beside it",
                allowed="a base without them",
                cure="thetahat export BASE FOLDER, which leaves them out, then base=FOLDER objective.future=[]",
            )
        if number and self.transfer:
            raise ConfigError(
                f"transfer with model.num_future={number}: for blocks that read the last layer it has no rule",
                allowed="model.num_future=0, or no transfer",
                cure="model.num_future=0 objective.future=[]",
            )

    @property
    def num_at_once(self) -> int:
        """Micro-batches that are read at once on a CPU, each by its own share of the threads; elsewhere 1.

        Threads that share one product wait for the slowest behind each of them. Each reads at least `LEAST_AT_ONCE`
        positions. Dropout has one order of draws, the load of experts and further targets are noted in one order, and
        ranks that hold a model together exchange in one: there they are read one after the other.
        """
        mesh, model = self.mesh, self.model
        is_together = mesh.shards * mesh.context * mesh.tensor * mesh.pipeline > 1
        if self.device != "cpu" or self.compile or is_together or model.dropout or model.experts:
            return 1
        if any(self.objective.future):
            return 1
        rows = min(self.micro_batch_size or self.batch_size, self.batch_size)
        return max(1, min(self.threads, rows, rows * self.data.context // LEAST_AT_ONCE, MOST_AT_ONCE))

    @property
    def watch(self) -> WatchConfig:
        """What may change when the run is resumed."""
        times = EvaluationTimes(**{name: getattr(self.evaluation, name) for name in EvaluationTimes.__struct_fields__})
        names = ("checkpoint", "ledger", "diagnosis", "samples", "track", "prompt", "heartbeat")
        return WatchConfig(evaluation=times, **{name: getattr(self, name) for name in names})

    @property
    def first_step(self) -> int:
        """The updates that were made before this run began: those of its parent."""
        return self.parent.step if self.parent else 0

    @property
    def essence(self) -> "RunConfig":
        """What the result depends on: the config with the default `WatchConfig`, and no mesh.

        A policy of diagnosis that leaves updates out is of it, and how many it leaves out. A base and a parent are what
        their digests say, wherever they lie.
        """
        usual = WatchConfig()
        times = {name: getattr(usual.evaluation, name) for name in EvaluationTimes.__struct_fields__}
        evaluation = replace(self.evaluation, **times)
        names = ("checkpoint", "ledger", "samples", "track", "prompt", "heartbeat")
        watch: dict[str, Any] = {name: getattr(usual, name) for name in names}
        watch |= {"mesh": MeshConfig(), "recompute": 0}
        acting = self.diagnosis
        watch["diagnosis"] = DiagnosisConfig(policies=acting.acting, rewind_batches=acting.rewind_batches)
        parent = replace(self.parent, run="", changes=()) if self.parent else None
        return replace(self, evaluation=evaluation, base=self.base_digest or self.base, parent=parent, **watch)

    @property
    def inference(self) -> InferenceConfig:
        """How the run scores with its model, which is also the default for `load`."""
        scoring, theirs = ScoringConfig.__struct_fields__, self.evaluation
        return InferenceConfig(
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            deterministic=self.deterministic,
            evaluation=ScoringConfig(**{name: getattr(theirs, name) for name in scoring}),
        )


def digest(config: RunConfig) -> str:
    """A digest of everything that the result depends on."""
    return digest_of(config.essence)


def differences(ours: RunConfig, theirs: RunConfig) -> list[str]:
    """A line `key: theirs -> ours` for each value that differs and that the result depends on."""
    return all_differences(ours.essence, theirs.essence)


def changed_keys(ours: RunConfig, theirs: RunConfig) -> list[str]:
    """The keys of these values."""
    return all_changed_keys(ours.essence, theirs.essence)


def changes(ours: RunConfig, theirs: RunConfig) -> list[str]:
    """The KEY=VALUE pairs that make, of what the result depends on, ours of theirs."""
    return pairs_between(ours.essence, theirs.essence)


def is_fixed(key: str) -> bool:
    """Whether a key cannot change by branching."""
    return key not in FREE and any(key == one or key.startswith(f"{one}.") for one in FIXED)
