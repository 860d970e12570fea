"""One page of one or more runs: curves, where time and weight went, extremes, configs; from the run folders alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from thetahat.core import store
from thetahat.core.errors import ConfigError
from thetahat.core.plain import counted, duration, shorter
from thetahat.verbs.diagnose import diagnosis_of
from thetahat.verbs.panels import AXES, alarms_of, panels_of
from thetahat.verbs.story import Rows, Story, differences, headline, read_story

MOST_ROWS = 25  # of a table beside a figure
MOST_SAMPLED = 8  # steps of which samples are shown
MOST_TEXT = 500  # characters of one
MOST_GROUPS = 12  # sources and lengths of a figure


@dataclass(frozen=True, slots=True)
class Report:
    """What was written."""

    path: Path
    num_bytes: int
    runs: tuple[str, ...]
    notes: tuple[str, ...]  # what could not be read


def report(*runs: str | Path, out: Path | None = None) -> Report:
    """Writes a page of one run, or of several over one another, and returns where.

    The page is one file that loads nothing. It is written into the run folder as report.html, in place of an earlier
    one, or to `out`, where nothing may be. Raises
    ModelError for a folder that is none of a run; what is torn or gone in one is left out, and the page says so.
    """
    if not runs:
        raise ConfigError("no run was named", allowed="one run folder or more", cure="thetahat report runs/NAME")
    folders = list(dict.fromkeys(Path(run) for run in runs))
    if out is None and len(folders) > 1:
        raise ConfigError("a page of several runs needs a place of its own", cure="--out report.html")
    path = out or folders[0] / "report.html"
    stories = [read_story(folder, folders) for folder in folders]
    if out is not None or not _is_ours(path):
        store.check_target(path)
    page = to_html(stories)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_text(path, page)
    notes = tuple(f"{story.name}: {note}" for story in stories for note in story.notes)
    return Report(path, len(page.encode()), tuple(map(str, folders)), notes)


def _is_ours(path: Path) -> bool:
    """Whether an earlier page of a run stands here: it is made again, where nothing else is ever written over."""
    try:
        with path.open("rb") as file:
            return b'<meta name="generator" content="thetahat"' in file.read(1024)
    except OSError:
        return False


def to_html(stories: Sequence[Story]) -> str:
    """The page. Everything that comes from a run is escaped."""
    from thetahat.figures.interactive import bars, draw, embed
    from thetahat.figures.page import printable, render

    panels, alarms = panels_of(stories), alarms_of(stories)
    figures: dict[str, Any] = draw(panels, AXES[0], alarms) if panels else {}
    accounts = [_account(story, number) for number, story in enumerate(stories)]
    for told in accounts:
        figures |= {place: bars(names, shares) for place, (names, shares) in told["bars"].items()}
    names = [story.name for story in stories]
    return render(
        "report.html",
        embed(figures),
        {"plain": printable},
        title=names[0] if len(names) == 1 else f"{len(names)} runs: {', '.join(names)}",
        runs=[_told(story, told) for story, told in zip(stories, accounts, strict=True)],
        panels=panels,
        tables={name: _table(panel) for name, panel in panels.items()},
        axes=AXES,
        differences=differences(stories),
        version=version("thetahat"),
        command=" ".join(str(story.folder) for story in stories),
    )


def _table(panel: Any) -> tuple[list[str], Rows]:
    """The numbers of a panel at some steps, for those who do not see the figure."""
    by_step = [dict(zip(curve.x["step"].tolist(), curve.y.tolist(), strict=True)) for curve in panel.curves]
    shortest = sorted(min(by_step, key=len))
    places = np.unique(np.linspace(0, len(shortest) - 1, MOST_ROWS).round().astype(int))
    rows = [
        [f"{step:,.0f}", *(f"{curve[step]:,.4g}" if step in curve else "" for curve in by_step)]
        for step in (shortest[place] for place in places.tolist())
    ]
    return ["step", *(curve.name for curve in panel.curves)], rows


def _account(story: Story, number: int) -> dict[str, Any]:
    """Who drives the objective of a run: the figures and the tables of its ledger."""
    told: dict[str, Any] = {"bars": {}, "figures": [], "tables": {}, "records": ""}
    if story.account is None:
        return told
    records = story.account["records"]
    told["records"] = (
        f"{counted(records['number'], 'record')}. As much as {records['effective_number']:,.0f} that weigh alike; "
        f"the heaviest hundredth holds {100 * records['top_share']:.1f} % of the weight."
    )
    for kind, rows in (("length", story.account["lengths"]), ("source", story.account["sources"])):
        if len(rows) < 2:
            continue
        ordered = sorted(rows, key=_shortest) if kind == "length" else rows
        shown, place = ordered[:MOST_GROUPS], f"{kind}-{number}"
        names = [_label(row["name"]) for row in shown]
        shares = {
            said: np.array([row[key] for row in shown])
            for key, said in (("weight", "loss weight"), ("nats", "nats"), ("tokens", "targets"))
        }
        told["bars"][place] = names, shares
        told["figures"].append((kind, place))
        told["tables"][kind] = [
            [row["name"], f"{row['rows']:,}", *(f"{100 * row[key]:.2f} %" for key in ("weight", "nats", "tokens"))]
            for row in ordered
        ]
    return told


def _shortest(row: Mapping[str, Any]) -> int:
    return int(row["name"].split()[0].replace(",", ""))


def _label(name: str) -> str:
    return (name if len(name) <= 28 else f"{name[:27]}…") or "(none)"


def _told(story: Story, account: dict[str, Any]) -> dict[str, Any]:
    spent = story.time()
    whole = sum(seconds for _, seconds in spent) or 1.0
    says = diagnosis_of(story)
    return {
        "name": story.name,
        "headline": headline(story),
        "numbers": _numbers(story),
        "verdict": says.verdict,
        "causes": [*zip(says.causes, says.commands, strict=True)],
        "timeline": [[f"{one.step:,}", one.text] for one in says.timeline],
        "looked": says.looked,
        "notes": tuple(f"{story.name}: {note}" for note in story.notes),
        "time": [[name, duration(seconds), f"{100 * seconds / whole:.1f} %"] for name, seconds in spent],
        "account": account if account["records"] else None,
        "extremes": [
            (kind, *_extremes(rows))
            for kind, rows in (("Least likely, late in the run", story.worst), ("Most likely", story.best))
            if rows
        ],
        "samples": _samples(story),
        "config": story.config_text,
        "environment": story.environment,
    }


def _extremes(rows: Rows) -> tuple[list[str], Rows]:
    """Heads and rows; which part of a record it is stands there only where some are not whole documents."""
    heads = ["id", "part", "source", "step", "targets", "nats per token"]
    if {part for _, part, *_ in rows} != {"document"}:
        return heads, rows
    return [head for head in heads if head != "part"], [[name, *rest] for name, _, *rest in rows]


def _samples(story: Story) -> Rows:
    """What was written at some steps, from the first to the last, prompt by prompt."""
    steps = sorted({sample.step for sample in story.samples})
    places = np.unique(np.linspace(0, len(steps) - 1, MOST_SAMPLED).round().astype(int)) if steps else []
    shown = {steps[place] for place in places}
    kept = sorted((one for one in story.samples if one.step in shown), key=lambda one: (one.prompt, one.step))
    return [[f"{one.step:,}", shorter(one.prompt, MOST_TEXT), shorter(one.text.strip("\n"), MOST_TEXT)] for one in kept]


def _numbers(story: Story) -> list[tuple[str, str, str]]:
    """The few numbers on top of the page."""
    steps, evaluations = story.history.steps, story.history.evaluations
    if not story.history.last_step:
        return []
    found = [("steps", f"{story.history.last_step:,}", f"of {story.num_steps:,}" if story.num_steps else "")]
    found.append(
        ("targets", f"{steps['tokens'][-1]:,.0f}", f"{np.nanmedian(steps['tokens_per_second']):,.0f} a second")
    )
    recent = -steps["log_likelihood_per_token"][-max(1, len(steps["step"]) // 20) :]
    found.append(("nats per token in training", f"{np.mean(recent):.3f}", f"mean of the last {len(recent):,} steps"))
    if len(bits := evaluations.get("bits_per_byte", np.zeros(0))):
        best = int(np.nanargmin(bits))
        found.append(
            (
                "bits per byte, held out",
                f"{bits[-1]:.4f}",
                f"best {bits[best]:.4f}, step {evaluations['step'][best]:,.0f}",
            )
        )
    return found
