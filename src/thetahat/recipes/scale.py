"""A decoder of which one number says the size, and everything else by a rule."""

from msgspec.structs import replace

from thetahat.core.errors import ConfigError
from thetahat.data.config import DataConfig
from thetahat.model.config import DecoderConfig, EmbeddingConfig
from thetahat.model.transfer.config import TransferConfig
from thetahat.optimization.config import WSD, AdamW, Muon, OptimizationConfig
from thetahat.recipes.quickstart import quickstart
from thetahat.run.config import CheckpointConfig, RunConfig
from thetahat.scoring.config import EvaluationConfig

SMALLEST = 2  # layers at which rates were chosen
DEEPEST = 128
HEAD_WIDTH, INNER, CONTEXT = 32, 3, 256
TOKENS_PER_PARAMETER = 20
ROWS = 8  # of a step of the smallest


def scale(depth: int = SMALLEST) -> RunConfig:
    r"""One dial: depth=12 says width, heads, batch, decay and steps; data.train=PATH for more than the smallest.

    With L layers: $D = 32 L$ in L heads and an inner width of 3 D, so $P = 13 D^2 L$ parameters in matrices of blocks;
    $T = 20 P$ tokens; rows of a step as $\sqrt T$; weight decay as one over the steps; rates by `transfer`.
    """
    if not SMALLEST <= depth <= DEEPEST:
        raise ConfigError(f"depth={depth}", allowed=f"a number of layers, {SMALLEST} to {DEEPEST}", cure="depth=12")
    growth = depth / SMALLEST
    width = HEAD_WIDTH * depth
    tokens = TOKENS_PER_PARAMETER * (4 + 3 * INNER) * width**2 * depth
    rows = round(ROWS * growth**1.5)
    steps = -(-tokens // (rows * CONTEXT))
    table = AdamW(learning_rate=0.006, beta2=0.98, epsilon=1e-10)
    return replace(
        quickstart(),
        recipe="scale",
        data=DataConfig(
            train="bundled:tinyshakespeare",
            held_out="tail:0.1",
            context=CONTEXT,
            over_long="split",
            shifts_splits=True,
            vocab_size=1024,
        ),
        device="auto",
        model=DecoderConfig(
            num_layers=depth,
            width=width,
            num_heads=depth,
            num_kv_heads=depth,
            head_width=HEAD_WIDTH,
            inner_width=INNER * width,
            embedding=EmbeddingConfig(has_norm=True),
        ),
        transfer=TransferConfig(width=HEAD_WIDTH * SMALLEST, num_layers=SMALLEST),
        optimization=OptimizationConfig(
            matrices=Muon(learning_rate=0.02, weight_decay=0.1 * growth**-1.5),
            embeddings=table,
            vectors=table,
            schedule=WSD(warmup_steps=max(10, steps // 50), decay=0.5),
        ),
        batch_size=rows,
        max_steps=steps,
        evaluation=EvaluationConfig(every=-(-steps // 5)),
        checkpoint=CheckpointConfig(every=-(-steps // 5)),
        prompt="",
    )
