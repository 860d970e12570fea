"""Trains Transformer language models by maximum likelihood: θ̂ = argmax_θ Σ_{x∈D} log Pr_θ(x).

import thetahat as th

for report in th.train(config): ...
th.score(th.load("runs/NAME"), ["my.txt"]).summary

Everything that a script needs is here: the verbs, what a loop or a model of your own is made of, and every config.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from thetahat.core.config import from_toml as from_toml, override as override, to_toml as to_toml
    from thetahat.core.errors import ThetahatError as ThetahatError
    from thetahat.core.total import Total as Total
    from thetahat.data.config import ChatConfig as ChatConfig, DataConfig as DataConfig, SourceConfig as SourceConfig
    from thetahat.diagnosis.config import DiagnosisConfig as DiagnosisConfig
    from thetahat.distribution.limits import HeartbeatConfig as HeartbeatConfig
    from thetahat.distribution.mesh import MeshConfig as MeshConfig
    from thetahat.distribution.world import World as World, join_world as join_world
    from thetahat.generation.beam import Beam as Beam
    from thetahat.generation.config import SamplesConfig as SamplesConfig
    from thetahat.generation.sample import Sampling as Sampling
    from thetahat.ledger.ledger import read_ledger as read_ledger
    from thetahat.model.adapters.config import LoRAConfig as LoRAConfig
    from thetahat.model.config import (
        Alibi as Alibi,
        AttentionConfig as AttentionConfig,
        AttentionMixer as AttentionMixer,
        DecoderConfig as DecoderConfig,
        DeepNormConfig as DeepNormConfig,
        DeltaMixer as DeltaMixer,
        EmbeddingConfig as EmbeddingConfig,
        EncoderConfig as EncoderConfig,
        EncoderDecoderConfig as EncoderDecoderConfig,
        ExpertsConfig as ExpertsConfig,
        HeadConfig as HeadConfig,
        LatentMixer as LatentMixer,
        LayerNormConfig as LayerNormConfig,
        LearnedPositions as LearnedPositions,
        LearnedScaleConfig as LearnedScaleConfig,
        LinearMixer as LinearMixer,
        LinearScaling as LinearScaling,
        Llama3Scaling as Llama3Scaling,
        MLPConfig as MLPConfig,
        RelativeConfig as RelativeConfig,
        RMSNormConfig as RMSNormConfig,
        Rotary as Rotary,
        SinusoidalPositions as SinusoidalPositions,
        SmearConfig as SmearConfig,
        StateSpaceMixer as StateSpaceMixer,
        SumConfig as SumConfig,
        TransformConfig as TransformConfig,
        Unrotated as Unrotated,
        ValueEmbeddingConfig as ValueEmbeddingConfig,
        YarnScaling as YarnScaling,
    )
    from thetahat.model.layers.head import Head as Head
    from thetahat.model.transfer.config import TransferConfig as TransferConfig
    from thetahat.objective.config import (
        BalanceConfig as BalanceConfig,
        Causal as Causal,
        Conditional as Conditional,
        FillInTheMiddle as FillInTheMiddle,
        Labels as Labels,
        Masked as Masked,
        ObjectiveConfig as ObjectiveConfig,
        Prefix as Prefix,
        Spans as Spans,
    )
    from thetahat.objective.objective import Model as Model, log_likelihood as log_likelihood
    from thetahat.optimization.clip import clip_gradients as clip_gradients
    from thetahat.optimization.config import (
        WSD as WSD,
        AdamW as AdamW,
        Constant as Constant,
        Cosine as Cosine,
        Muon as Muon,
        OptimizationConfig as OptimizationConfig,
    )
    from thetahat.recipes.catalogue import find_recipe as find_recipe
    from thetahat.run.branch import branch as branch
    from thetahat.run.card import Card as Card
    from thetahat.run.config import (
        CheckpointConfig as CheckpointConfig,
        InferenceConfig as InferenceConfig,
        LedgerConfig as LedgerConfig,
        ParentConfig as ParentConfig,
        RunConfig as RunConfig,
        WatchConfig as WatchConfig,
    )
    from thetahat.run.cost.mesh import Mesh as Mesh
    from thetahat.run.prepare import prepare as prepare
    from thetahat.run.state import first_model as first_model
    from thetahat.run.step import weigh as weigh
    from thetahat.run.train import train as train
    from thetahat.scoring.config import EvaluationConfig as EvaluationConfig
    from thetahat.verbs.bench import BenchConfig as BenchConfig, bench as bench
    from thetahat.verbs.check_model import check_model as check_model
    from thetahat.verbs.choose import choose as choose
    from thetahat.verbs.classify import classify as classify
    from thetahat.verbs.compare import compare as compare
    from thetahat.verbs.cost import Machines as Machines, cost as cost
    from thetahat.verbs.diagnose import diagnose as diagnose
    from thetahat.verbs.evaluate import evaluate as evaluate
    from thetahat.verbs.explain import explain as explain
    from thetahat.verbs.export import ExportConfig as ExportConfig, export as export
    from thetahat.verbs.generate import answer as answer, generate as generate
    from thetahat.verbs.import_ import import_ as import_
    from thetahat.verbs.influence import influence as influence
    from thetahat.verbs.info import info as info
    from thetahat.verbs.load import load as load
    from thetahat.verbs.merge import merge as merge
    from thetahat.verbs.replay import replay as replay
    from thetahat.verbs.report import report as report
    from thetahat.verbs.scaling import scaling as scaling
    from thetahat.verbs.score import score as score
    from thetahat.verbs.select import select as select
    from thetahat.verbs.track import track as track
    from thetahat.verbs.verify import verify as verify
    from thetahat.verbs.watch import watch as watch

VERBS = {
    "find_recipe": "recipes.catalogue",
    "override": "core.config",
    "from_toml": "core.config",
    "to_toml": "core.config",
    "train": "run.train",
    "branch": "run.branch",
    "explain": "verbs.explain",
    "verify": "verbs.verify",
    "load": "verbs.load",
    "score": "verbs.score",
    "compare": "verbs.compare",
    "select": "verbs.select",
    "choose": "verbs.choose",
    "classify": "verbs.classify",
    "influence": "verbs.influence",
    "replay": "verbs.replay",
    "info": "verbs.info",
    "cost": "verbs.cost",
    "bench": "verbs.bench",
    "scaling": "verbs.scaling",
    "diagnose": "verbs.diagnose",
    "report": "verbs.report",
    "watch": "verbs.watch",
    "track": "verbs.track",
    "merge": "verbs.merge",
    "export": "verbs.export",
    "import_": "verbs.import_",
    "generate": "verbs.generate",
    "answer": "verbs.generate",
    "read_ledger": "ledger.ledger",
}
PARTS = {  # of a loop or a model of one's own
    "prepare": "run.prepare",
    "first_model": "run.state",
    "weigh": "run.step",
    "log_likelihood": "objective.objective",
    "Total": "core.total",
    "clip_gradients": "optimization.clip",
    "evaluate": "verbs.evaluate",
    "join_world": "distribution.world",
    "World": "distribution.world",
    "Machines": "verbs.cost",
    "Mesh": "run.cost.mesh",
    "Model": "objective.objective",
    "Head": "model.layers.head",
    "check_model": "verbs.check_model",
}
CONFIGS = {
    "RunConfig": "run.config",
    "DataConfig": "data.config",
    "ChatConfig": "data.config",
    "SourceConfig": "data.config",
    "DecoderConfig": "model.config",
    "EncoderConfig": "model.config",
    "EncoderDecoderConfig": "model.config",
    "RMSNormConfig": "model.config",
    "LayerNormConfig": "model.config",
    "SumConfig": "model.config",
    "LearnedScaleConfig": "model.config",
    "DeepNormConfig": "model.config",
    "LinearScaling": "model.config",
    "Llama3Scaling": "model.config",
    "YarnScaling": "model.config",
    "Alibi": "model.config",
    "Rotary": "model.config",
    "Unrotated": "model.config",
    "AttentionMixer": "model.config",
    "DeltaMixer": "model.config",
    "LatentMixer": "model.config",
    "LinearMixer": "model.config",
    "StateSpaceMixer": "model.config",
    "RelativeConfig": "model.config",
    "AttentionConfig": "model.config",
    "MLPConfig": "model.config",
    "ExpertsConfig": "model.config",
    "LearnedPositions": "model.config",
    "SinusoidalPositions": "model.config",
    "EmbeddingConfig": "model.config",
    "SmearConfig": "model.config",
    "TransformConfig": "model.config",
    "HeadConfig": "model.config",
    "ValueEmbeddingConfig": "model.config",
    "LoRAConfig": "model.adapters.config",
    "TransferConfig": "model.transfer.config",
    "ObjectiveConfig": "objective.config",
    "BalanceConfig": "objective.config",
    "Causal": "objective.config",
    "FillInTheMiddle": "objective.config",
    "Prefix": "objective.config",
    "Masked": "objective.config",
    "Conditional": "objective.config",
    "Spans": "objective.config",
    "Labels": "objective.config",
    "OptimizationConfig": "optimization.config",
    "AdamW": "optimization.config",
    "Muon": "optimization.config",
    "Constant": "optimization.config",
    "Cosine": "optimization.config",
    "WSD": "optimization.config",
    "EvaluationConfig": "scoring.config",
    "CheckpointConfig": "run.config",
    "LedgerConfig": "run.config",
    "MeshConfig": "distribution.mesh",
    "ParentConfig": "run.config",
    "DiagnosisConfig": "diagnosis.config",
    "HeartbeatConfig": "distribution.limits",
    "WatchConfig": "run.config",
    "SamplesConfig": "generation.config",
    "InferenceConfig": "run.config",
    "Card": "run.card",
    "ExportConfig": "verbs.export",
    "BenchConfig": "verbs.bench",
    "Sampling": "generation.sample",
    "Beam": "generation.beam",
}
_PLACES = VERBS | PARTS | CONFIGS | {"ThetahatError": "core.errors"}
__all__ = [*_PLACES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll] - each is imported when asked for


def __getattr__(name: str) -> Any:
    """Imports a name when it is first asked for, so that `import thetahat` stays quick."""
    if name not in _PLACES:
        raise AttributeError(f"module 'thetahat' has no attribute {name!r}")
    return getattr(import_module(f"thetahat.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """What completion shows."""
    return sorted(__all__)
