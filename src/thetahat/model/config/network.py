"""The feed-forward network, and the functions between matrices."""

from typing import Literal

from thetahat.core.config import Config

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


class MLPConfig(Config, kw_only=True):
    """The feed-forward network: down(activation(gate x) * up x), or down(activation(up x))."""

    is_gated: bool = True
    """Whether the network is gated (SwiGLU, GeGLU): down(activation(gate x) * up x)."""
    activation: Activation = "silu"
    """The activation function."""
    has_bias: bool = False
    """Whether its linear maps have biases."""
