"""Translation by an encoder-decoder: Pr(target text | source text)."""

from msgspec.structs import replace

from thetahat.data.config import DataConfig
from thetahat.model.config import EncoderDecoderConfig
from thetahat.objective.config import Conditional, ObjectiveConfig
from thetahat.optimization.config import WSD, AdamW, Muon, OptimizationConfig
from thetahat.recipes.quickstart import quickstart
from thetahat.run.config import CheckpointConfig, RunConfig
from thetahat.scoring.config import EvaluationConfig


def translation() -> RunConfig:
    """Writes completions after prompts, sentence by sentence, in half an hour on two cores; data.train=PAIRS.jsonl."""
    return replace(
        quickstart(),
        recipe="translation",
        data=DataConfig(train="pairs.jsonl", held_out="hash:0.02", context=64, over_long="drop", vocab_size=4000),
        model=EncoderDecoderConfig(
            num_layers=3,
            num_encoder_layers=3,
            width=160,
            num_heads=5,
            num_kv_heads=5,
            head_width=32,
            inner_width=432,
            ties_embeddings=True,
            dropout=0.1,
        ),
        objective=ObjectiveConfig(factorization=Conditional()),
        optimization=OptimizationConfig(
            matrices=Muon(learning_rate=0.02, momentum=0.95, weight_decay=0.1),
            embeddings=AdamW(learning_rate=0.003, beta2=0.98),
            vectors=AdamW(learning_rate=0.003, beta2=0.98),
            schedule=WSD(warmup_steps=50, decay=0.6),
        ),
        batch_size=32,
        max_steps=2900,
        evaluation=EvaluationConfig(every=580, batch_size=64),
        checkpoint=CheckpointConfig(every=580, keep=2),
        prompt="",
    )
