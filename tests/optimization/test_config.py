import pytest

from thetahat.core.config import Config, from_toml, override, to_toml
from thetahat.core.errors import ConfigError
from thetahat.optimization.config import WSD, AdamW, Constant, Cosine, Muon, OptimizationConfig

CONFIG = OptimizationConfig(
    matrices=Muon(learning_rate=0.02, scale="rms"),
    embeddings=AdamW(learning_rate=0.003),
    vectors=AdamW(learning_rate=0.01),
    schedule=WSD(warmup_steps=10, decay=0.4),
    clip=1.0,
)


class Root(Config, kw_only=True):
    optimization: OptimizationConfig


def test_a_config_survives_toml():
    assert from_toml(to_toml(CONFIG), OptimizationConfig) == CONFIG


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("optimization.schedule.kind=cosine", Cosine()),
        ("optimization.schedule.kind=constant", Constant()),
        ("optimization.schedule.decay=0.5", WSD(warmup_steps=10, decay=0.5)),
    ],
)
def test_another_schedule_is_one_override_away(pair, expected):
    assert override(Root(optimization=CONFIG), [pair]).optimization.schedule == expected


def test_matrices_can_be_given_to_adamw():
    changed = override(
        Root(optimization=CONFIG), ["optimization.matrices.kind=adamw", "optimization.matrices.learning_rate=0.001"]
    )
    assert changed.optimization.matrices == AdamW(learning_rate=0.001)


def test_gains_and_biases_do_not_decay_unless_asked_to():
    assert CONFIG.vectors.weight_decay == 0


@pytest.mark.parametrize(
    ("variant", "values", "named"),
    [
        (Constant, {"warmup_steps": -1}, "warmup_steps=-1"),
        (Cosine, {"final": 1.5}, "final=1.5"),
        (Cosine, {"final": float("nan")}, "final=nan"),
        (WSD, {"decay": 0.0}, "decay=0"),
        (WSD, {"decay": 1.01}, "decay=1.01"),
        (AdamW, {"learning_rate": 0.0}, "learning_rate=0"),
        (AdamW, {"learning_rate": float("inf")}, "learning_rate=inf"),
        (AdamW, {"learning_rate": 1.0, "beta1": 1.0}, "beta1=1"),
        (AdamW, {"learning_rate": 1.0, "beta2": -0.1}, "beta2=-0.1"),
        (AdamW, {"learning_rate": 1.0, "epsilon": 0.0}, "epsilon=0"),
        (AdamW, {"learning_rate": 1.0, "weight_decay": -1.0}, "weight_decay=-1"),
        (Muon, {"learning_rate": float("nan")}, "learning_rate=nan"),
        (Muon, {"learning_rate": 1.0, "momentum": 1.0}, "momentum=1"),
        (Muon, {"learning_rate": 1.0, "num_iterations": 0}, "num_iterations=0"),
        (Muon, {"learning_rate": 1.0, "scale": "round"}, "scale=round"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_does(variant, values, named):
    with pytest.raises(ConfigError, match="allowed:") as raised:
        variant(**values)
    assert named in str(raised.value)


@pytest.mark.parametrize("clip", ["0.0", "-1.0", "nan"])
def test_a_clip_that_would_stop_the_run_is_an_error(clip):
    with pytest.raises(ConfigError, match="clip="):
        override(Root(optimization=CONFIG), [f"optimization.clip={clip}"])


def test_no_clip_is_a_value():
    assert override(Root(optimization=CONFIG), ["optimization.clip=none"]).optimization.clip is None
