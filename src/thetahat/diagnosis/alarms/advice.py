"""What to change, as KEY=VALUE."""

from thetahat.optimization.config import OptimizationConfig


def slower(optimization: OptimizationConfig) -> tuple[str, ...]:
    """Half of each learning rate."""
    rules = {name: getattr(optimization, name) for name in ("matrices", "embeddings", "vectors")}
    return tuple(f"optimization.{name}.learning_rate={rule.learning_rate / 2:g}" for name, rule in rules.items())
