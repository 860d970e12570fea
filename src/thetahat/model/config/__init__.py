"""The shape of a model: one Block, composed of small choices. The defaults are Qwen3's shape.

Pre-norm, rotary positions, grouped queries, QK-norm, SwiGLU. Every choice has a default that is this shape, so a config
that says nothing of a choice means what it always meant.
"""

from thetahat.model.config.attention import AttentionConfig as AttentionConfig
from thetahat.model.config.ends import (
    EmbeddingConfig as EmbeddingConfig,
    HeadConfig as HeadConfig,
    SmearConfig as SmearConfig,
    TransformConfig as TransformConfig,
    ValueEmbeddingConfig as ValueEmbeddingConfig,
)
from thetahat.model.config.experts import ExpertsConfig as ExpertsConfig
from thetahat.model.config.mixers import (
    AttendingMixer as AttendingMixer,
    AttentionMixer as AttentionMixer,
    DeltaMixer as DeltaMixer,
    LatentMixer as LatentMixer,
    LinearMixer as LinearMixer,
    Mixer as Mixer,
    RecurrentMixer as RecurrentMixer,
    StateSpaceMixer as StateSpaceMixer,
)
from thetahat.model.config.model import (
    DecoderConfig as DecoderConfig,
    EncoderConfig as EncoderConfig,
    EncoderDecoderConfig as EncoderDecoderConfig,
    ModelConfig as ModelConfig,
    TransformerConfig as TransformerConfig,
)
from thetahat.model.config.network import Activation as Activation, MLPConfig as MLPConfig
from thetahat.model.config.norms import (
    LayerNormConfig as LayerNormConfig,
    NormConfig as NormConfig,
    Placement as Placement,
    RMSNormConfig as RMSNormConfig,
)
from thetahat.model.config.positions import (
    Alibi as Alibi,
    LearnedPositions as LearnedPositions,
    LinearScaling as LinearScaling,
    Llama3Scaling as Llama3Scaling,
    RelativeConfig as RelativeConfig,
    Rotary as Rotary,
    RotaryScaling as RotaryScaling,
    SinusoidalPositions as SinusoidalPositions,
    Unrotated as Unrotated,
    YarnScaling as YarnScaling,
    rotated_width as rotated_width,
)
from thetahat.model.config.residual import (
    DeepNormConfig as DeepNormConfig,
    LearnedScaleConfig as LearnedScaleConfig,
    ResidualConfig as ResidualConfig,
    SumConfig as SumConfig,
)
from thetahat.model.config.values import Count as Count, Dtype as Dtype, Positive as Positive
