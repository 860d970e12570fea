"""An encoder that guesses masked tokens, and a classifier that starts from it."""

from msgspec.structs import replace

from thetahat.data.config import DataConfig
from thetahat.model.config import EncoderConfig
from thetahat.objective.config import Labels, Masked, ObjectiveConfig
from thetahat.optimization.config import WSD, AdamW, Muon, OptimizationConfig
from thetahat.recipes.quickstart import quickstart
from thetahat.run.config import CheckpointConfig, RunConfig
from thetahat.scoring.config import EvaluationConfig


def masked() -> RunConfig:
    """Pretrains a small encoder on masked tokens; data.train=PATH of texts or prompts with completions."""
    return replace(
        quickstart(),
        recipe="masked",
        data=DataConfig(held_out="hash:0.02", context=128, over_long="split", vocab_size=4096),
        model=EncoderConfig(
            num_layers=4,
            width=128,
            num_heads=4,
            num_kv_heads=4,
            head_width=32,
            inner_width=352,
            ties_embeddings=True,
        ),
        objective=ObjectiveConfig(factorization=Masked(rate=0.3)),
        batch_size=16,
        max_steps=1000,
        evaluation=EvaluationConfig(every=0, passes=8),
        checkpoint=CheckpointConfig(every=250),
        prompt="",
    )


def classification() -> RunConfig:
    """Learns labels, {"text": ..., "label": ...}; base=runs/NAME starts from a pretrained encoder."""
    return replace(
        masked(),
        recipe="classification",
        data=DataConfig(train="labelled.jsonl", held_out="hash:0.1", context=64, vocab_size=4096),
        objective=ObjectiveConfig(factorization=Labels()),
        optimization=OptimizationConfig(
            matrices=Muon(learning_rate=0.005, momentum=0.9, weight_decay=0.1),
            embeddings=AdamW(learning_rate=0.001),
            vectors=AdamW(learning_rate=0.001),
            schedule=WSD(warmup_steps=10, decay=0.6),
        ),
        batch_size=16,
        max_steps=600,
        evaluation=EvaluationConfig(every=200, batch_size=64),
        checkpoint=CheckpointConfig(every=200),
    )
