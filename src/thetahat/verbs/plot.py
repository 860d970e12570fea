"""The curves of runs as a picture: as text for a terminal, or as a file for a page."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thetahat.core import store
from thetahat.core.config import from_toml
from thetahat.core.errors import ConfigError, ModelError, ThetahatError
from thetahat.figures.image import FORMATS, as_image
from thetahat.figures.panel import Panel
from thetahat.figures.terminal import as_text
from thetahat.run.config import RunConfig
from thetahat.run.log.history import History, read_history
from thetahat.run.log.metrics import METRICS
from thetahat.verbs.ancestry import with_parents
from thetahat.verbs.panels import AXES, PANELS, panels_of

CALLED = {
    **dict.fromkeys(("loss", "nats", "log_likelihood", "nll"), "likelihood"),
    **dict.fromkeys(("bits_per_byte", "bpb", "held_out"), "bits"),
    **dict.fromkeys(("grad_norm", "gradient_norm", "norm"), "gradient"),
    **dict.fromkeys(("lr", "learning_rate"), "rate"),
    **dict.fromkeys(("tokens_per_second", "throughput"), "speed"),
    **dict.fromkeys(("steps",), "step"),
    **dict.fromkeys(("tokens",), "targets"),
    **dict.fromkeys(("seconds", "time"), "minutes"),
}
"""Other names of panels and axes."""
FINEST = 60  # of a run, parts of which a line is the mean by default


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it is drawn."""

    name: str
    history: History
    config: RunConfig | None


@dataclass(frozen=True, slots=True)
class Plot:
    """Panels of one or more runs over one axis."""

    panels: tuple[Panel, ...]
    axis: str
    smooth: int  # steps of which each place of a line is the mean
    notes: tuple[str, ...]  # what could not be read, or has nothing to show

    def text(self, width: int = 80, *, has_colours: bool = False) -> str:
        """As a terminal shows it."""
        return as_text(self.panels, self.axis, width, has_colours=has_colours)

    def save(self, path: Path) -> None:
        """Writes an SVG, a PNG or a PDF, by the ending of the name; what is there is never written over."""
        form = path.suffix.lower().removeprefix(".")
        if form not in FORMATS:
            raise ConfigError(f"{path} is no picture", allowed=f"a name that ends with .{', .'.join(FORMATS)}")
        store.check_target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_bytes(path, as_image(self.panels, self.axis, form))


def plot(*runs: str | Path, y: Sequence[str] = ("likelihood",), x: str = "step", smooth: int | None = None) -> Plot:
    """The curves of run folders over one another: a panel for each of `y`, over `x`.

    y: likelihood (nats per token, of training and held out), bits (held-out bits per byte), gradient, rate, updates
    (their size over that of the parameters), speed; x: step, targets or minutes. Lines are means of the last
    `smooth` steps, by default of a 60th of the longest run. Points are evaluations, with their 95 % intervals. The
    curve of a branched run begins with that of its parent, unless the parent is drawn, too; a vertical line stands
    where it was branched. Raises ModelError for a folder that is none of a run, ConfigError for another name.
    """
    names, axis = [_known(name, tuple(PANELS), "y") for name in y], _known(x, AXES, "x")
    if smooth is not None and smooth < 1:
        raise ConfigError(f"smooth={smooth}", allowed="a number of steps, 1 or more")
    if not runs:
        raise ConfigError("no run was named", allowed="one run folder or more", cure="thetahat plot runs/NAME")
    folders = [Path(run) for run in dict.fromkeys(map(str, runs))]
    found = [_read(folder, folders) for folder in folders]
    longest = max(len(run.history.steps["step"]) for run in found)
    size = smooth or max(longest // FINEST, 1)
    panels = panels_of(_told_apart(found, runs), list(dict.fromkeys(names)), size)
    notes = [f"{run.name}: {note}" for run in found for note in run.history.notes]
    notes += [f"nothing was logged for {name}" for name in dict.fromkeys(names) if name not in panels]
    if not panels:
        raise ModelError(f"there is nothing to draw: {'; '.join(notes)}", cure="thetahat train logs every step")
    return Plot(tuple(panels.values()), axis, size, tuple(notes))


def _known(name: str, known: Sequence[str], option: str) -> str:
    found = name if name in known else CALLED.get(name, "")
    if found not in known:
        raise ConfigError(f"{option}={name!r} is nothing that is drawn", allowed=", ".join(known))
    return found


def _read(folder: Path, drawn: Sequence[Path]) -> Run:
    if not (folder / METRICS).is_file():
        raise ModelError(f"{folder} is no run folder: it has no {METRICS}", allowed="a folder that thetahat train made")
    config = None
    with suppress(OSError, UnicodeDecodeError, ThetahatError):  # the curves are there without it
        config = from_toml((folder / "config.toml").read_text(encoding="utf-8"), RunConfig, name=str(folder))
    return Run(folder.name, with_parents(folder, config, read_history(folder), drawn), config)


def _told_apart(runs: Sequence[Run], folders: Sequence[str | Path]) -> list[Run]:
    """Runs by the names of their folders, or by their whole paths where two have one name."""
    paths = list(dict.fromkeys(map(str, folders)))
    if len({run.name for run in runs}) == len(runs):
        return list(runs)
    return [Run(path, run.history, run.config) for path, run in zip(paths, runs, strict=True)]
