"""A decoder of about a million parameters on Shakespeare, for two CPU cores and three minutes."""

from thetahat.data.config import DataConfig
from thetahat.model.config import DecoderConfig
from thetahat.optimization.config import WSD, AdamW, Muon, OptimizationConfig
from thetahat.run.config import CheckpointConfig, RunConfig
from thetahat.scoring.config import EvaluationConfig


def quickstart() -> RunConfig:
    """Learns to write Shakespeare on a laptop's CPU in about two minutes on two cores."""
    return RunConfig(
        recipe="quickstart",
        device="cpu",
        data=DataConfig(
            train="bundled:tinyshakespeare",
            held_out="tail:0.1",
            context=256,
            over_long="split",
            shifts_splits=True,
            vocab_size=1024,
        ),
        model=DecoderConfig(
            num_layers=4,
            width=128,
            num_heads=4,
            num_kv_heads=2,
            head_width=32,
            inner_width=416,
            ties_embeddings=True,
        ),
        optimization=OptimizationConfig(
            matrices=Muon(learning_rate=0.02, momentum=0.9, weight_decay=0.4),
            embeddings=AdamW(learning_rate=0.003, beta2=0.98, epsilon=1e-10),
            vectors=AdamW(learning_rate=0.01, beta2=0.98, epsilon=1e-10),
            schedule=WSD(warmup_steps=10, decay=0.6),
        ),
        batch_size=16,
        max_steps=450,
        evaluation=EvaluationConfig(every=90),
        checkpoint=CheckpointConfig(every=90),
        prompt="ROMEO:",
    )
