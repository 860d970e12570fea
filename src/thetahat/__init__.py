"""Trains Transformer language models by maximum likelihood: θ̂ = argmax_θ Σ_{x∈D} log Pr_θ(x).

import thetahat as th

for report in th.train(config): ...
th.score(th.load("runs/NAME"), ["my.txt"]).summary
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from thetahat.recipes.catalogue import find_recipe as find_recipe
    from thetahat.run.train import train as train
    from thetahat.verbs.compare import compare as compare
    from thetahat.verbs.load import load as load
    from thetahat.verbs.score import score as score
    from thetahat.verbs.select import select as select
    from thetahat.verbs.verify import verify as verify

_VERBS = {
    "compare": "thetahat.verbs.compare",
    "find_recipe": "thetahat.recipes.catalogue",
    "load": "thetahat.verbs.load",
    "score": "thetahat.verbs.score",
    "select": "thetahat.verbs.select",
    "train": "thetahat.run.train",
    "verify": "thetahat.verbs.verify",
}


def __getattr__(name: str) -> Any:
    """Imports a verb when it is first asked for, so that `import thetahat` stays quick."""
    if name not in _VERBS:
        raise AttributeError(f"module 'thetahat' has no attribute {name!r}")
    return getattr(import_module(_VERBS[name]), name)
