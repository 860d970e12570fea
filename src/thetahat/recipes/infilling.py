"""A small decoder that learns to fill in the middle of a text, on a CPU."""

from msgspec.structs import replace

from thetahat.objective.config import FillInTheMiddle, ObjectiveConfig
from thetahat.recipes.quickstart import quickstart
from thetahat.run.config import RunConfig


def infilling() -> RunConfig:
    """Learns to fill in the middle of Shakespeare, or of your code, in about two minutes on two cores."""
    config = quickstart()
    return replace(
        config,
        recipe="infilling",
        data=replace(config.data, split_on="\\n\\n"),
        objective=ObjectiveConfig(factorization=FillInTheMiddle(rate=0.5)),
    )
