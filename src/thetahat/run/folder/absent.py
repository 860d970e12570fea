"""What is said of a MODEL that is none: it is known before torch is imported."""

import difflib
import os
from pathlib import Path
from shlex import quote

from thetahat.core.errors import ModelError
from thetahat.run.folder.files import CHECKPOINTS

KINDS = "a run folder, RUN@best, RUN@STEP, RUN@ema, RUN@mean:K, a checkpoint folder, or one as transformers writes it"


def refuse_absent(*names: str) -> None:
    """Raises ModelError for the first MODEL that is not on this machine, unless it is a name of the hub."""
    for name in names:
        run = name.rpartition("@")[0] or name
        if not name.startswith("hf:") and not os.path.lexists(name) and not os.path.lexists(run):
            raise no_model(Path(run))


def no_model(place: Path) -> ModelError:
    """The error for a place where no model is."""
    return ModelError(f"{place} is not a model", allowed=KINDS, cure=_near(place))


def _near(name: Path) -> str:
    """Suggestions for a name that is no model: the run that it is in, or the runs that there are."""
    if name.is_file():
        return f"a MODEL before it, for example {_near(name.parent)}"
    around = [folder for folder in (name, *name.parents) if (folder / CHECKPOINTS).is_dir()]
    places = dict.fromkeys((name.parent, name, Path("runs")))
    runs = list(dict.fromkeys(found.parent.as_posix() for place in places for found in place.glob(f"*/{CHECKPOINTS}")))
    alike = (difflib.get_close_matches(name.as_posix(), runs, n=3, cutoff=cutoff) for cutoff in (0.75, 0.3))
    near = next(filter(None, alike), sorted(runs)[:3])
    return " or ".join(quote(str(run)) for run in around[:1] or near) or "thetahat train makes one, in runs/"
