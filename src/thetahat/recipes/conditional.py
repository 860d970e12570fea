"""Training on completions given prompts: dialogues and summaries."""

from msgspec.structs import replace

from thetahat.data.config import ChatConfig, DataConfig
from thetahat.model.config import EncoderDecoderConfig
from thetahat.optimization.config import WSD, AdamW, Muon, OptimizationConfig
from thetahat.recipes.quickstart import quickstart
from thetahat.recipes.translation import translation
from thetahat.run.config import CheckpointConfig, RunConfig
from thetahat.scoring.config import EvaluationConfig


def dialogue() -> RunConfig:
    """Learns every turn of the assistant in dialogues, in one pass; data.train=DIALOGUES.jsonl, base=runs/NAME."""
    return replace(
        quickstart(),
        recipe="dialogue",
        data=DataConfig(
            train="dialogues.jsonl",
            held_out="hash:0.05",
            context=512,
            over_long="keep-last-turns",
            vocab_size=2048,
            chat=ChatConfig(template="chatml"),
        ),
        optimization=OptimizationConfig(
            matrices=Muon(learning_rate=0.01, momentum=0.9, weight_decay=0.1),
            embeddings=AdamW(learning_rate=0.002, beta2=0.98),
            vectors=AdamW(learning_rate=0.002, beta2=0.98),
            schedule=WSD(warmup_steps=10, decay=0.6),
        ),
        batch_size=8,
        max_steps=300,
        evaluation=EvaluationConfig(every=100),
        checkpoint=CheckpointConfig(every=100),
        prompt="",
    )


def summaries() -> RunConfig:
    """Writes short texts after long ones: a source of 1,024 positions, a target of 128; data.train=PAIRS.jsonl."""
    return replace(
        translation(),
        recipe="summaries",
        data=DataConfig(
            train="pairs.jsonl",
            held_out="hash:0.05",
            context=128,
            source_context=1024,
            over_long="truncate-right",
            vocab_size=4096,
        ),
        model=EncoderDecoderConfig(
            num_layers=3,
            num_encoder_layers=3,
            width=128,
            num_heads=4,
            num_kv_heads=4,
            head_width=32,
            inner_width=352,
            ties_embeddings=True,
            dropout=0.1,
        ),
        batch_size=8,
        max_steps=1000,
        evaluation=EvaluationConfig(every=250, batch_size=8),
        checkpoint=CheckpointConfig(every=250),
    )
