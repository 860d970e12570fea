"""The size of GPT-2's smallest model, for one GPU."""

from msgspec.structs import replace

from thetahat.data.config import DataConfig
from thetahat.model.config import DecoderConfig
from thetahat.optimization.config import WSD, AdamW, Muon, OptimizationConfig
from thetahat.recipes.quickstart import quickstart
from thetahat.run.config import CheckpointConfig, RunConfig
from thetahat.scoring.config import EvaluationConfig


def gpt2_124m() -> RunConfig:
    """124M parameters at 1,024 context in bfloat16 on one GPU; bring your own text with data.train=PATH."""
    return replace(
        quickstart(),
        recipe="gpt2-124m",
        device="cuda",
        dtype="bfloat16",
        compile=True,
        data=DataConfig(held_out="hash:0.01", context=1024, over_long="split", vocab_size=50304),
        model=DecoderConfig(
            num_layers=12,
            width=768,
            num_heads=12,
            num_kv_heads=12,
            head_width=64,
            inner_width=2048,
            ties_embeddings=True,
        ),
        optimization=OptimizationConfig(
            matrices=Muon(learning_rate=0.02, weight_decay=0.1),
            embeddings=AdamW(learning_rate=0.003),
            vectors=AdamW(learning_rate=0.003),
            schedule=WSD(warmup_steps=100, decay=0.3),
            clip=1.0,
        ),
        batch_size=128,
        micro_batch_size=32,
        max_steps=5000,
        evaluation=EvaluationConfig(every=500, batch_size=32),
        checkpoint=CheckpointConfig(every=500),
        prompt="",
    )
