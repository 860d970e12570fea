"""Makes runs of the zoo, and counts what they said."""

import shutil
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.zoo.case import run
from benchmarks.zoo.failures import FAILURES, Failure
from benchmarks.zoo.healthy import healthy

WITHIN = 2  # a delay of 1 is the step of the fault itself; what its update did shows in the next one
MAKERS = {one.number: one.make for one in FAILURES} | {"healthy": healthy}


def once(number: str, seed: int, keep: Path | None) -> dict[str, Any]:
    """One run; an exception of ours is its result."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix=f"zoo-{number}-{seed}-"))
    try:
        case = MAKERS[number](seed, folder)
        outcome = run(case, folder)
        found = {"since": case.since, "suspect": case.suspect, "where": case.where, **asdict(outcome)}
        if keep and (folder / "run").exists():
            shutil.copytree(folder / "run", keep / f"{number}-{seed}", dirs_exist_ok=True)
    except Exception as error:  # noqa: BLE001 - counted, with its words
        found = {"crash": f"{type(error).__name__}: {error}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"number": number, "seed": seed, **found}


def judged(failure: Failure, one: dict[str, Any]) -> dict[str, Any]:
    """Whether it was found, when, and what stood first; the sequence, and the part of the model, in what said it first.

    What is a note while it trains claims nothing, and so finds nothing. Before the first step the part is in words.
    """
    hits = [said for said in one.get("said", []) if said["name"] in failure.names]
    hits = [said for said in hits if said["step"] == 0 or (said["step"] >= one["since"] and not said["is_note"])]
    places = [one["causes"].index(name) for name in failure.names if name in one.get("causes", [])]
    first = hits[0] if hits else None
    return {
        "found": bool(hits) or bool(places),
        "delay": max(first["step"] - one["since"] + 1, 0) if first else None,
        "rank": min(places) + 1 if places else None,
        "suspect": None if not one.get("suspect") else bool(first and first["suspects"][:1] == [one["suspect"]]),
        "where": None if not one.get("where") else bool(first and _names(first, one["where"])),
    }


def _names(said: dict[str, Any], part: str) -> bool:
    """Whether it names this part of the model, or one within it."""
    named = [said["where"]] if said["step"] else said["what"].replace(",", " ").split()
    return any(one == part or one.startswith(f"{part}.") for one in named)


def table(results: list[dict[str, Any]]) -> str:
    """What came of it, in Markdown, from lines of `brief`."""
    lines = [
        "| | failure | found | median delay | first | of three | sequence | part |",
        "|---|---|---|---|---|---|---|---|",
    ]
    totals = {"found": [], "first": [], "three": [], "suspect": [], "where": []}  # type: ignore[var-annotated]
    delays_of_faults: list[int | None] = []
    for failure in FAILURES:
        some = [one for one in results if one["number"] == failure.number]
        if not some:
            continue
        columns = {
            "found": [one["found"] for one in some],
            "first": [one["rank"] == 1 for one in some],
            "three": [one["rank"] is not None and one["rank"] <= 3 for one in some],
            "suspect": [one["suspect"] for one in some if one["suspect"] is not None],
            "where": [one["where"] for one in some if one["where"] is not None],
        }
        for name, values in columns.items():
            totals[name] += values
        if failure.is_correctness:
            delays_of_faults += [one["delay"] for one in some]
        delays = [one["delay"] for one in some if one["delay"] is not None]
        delay = f"{statistics.median(delays):g}" if delays else ""
        shown = [f"{sum(values)}/{len(values)}" if values else "" for values in columns.values()]
        lines.append(f"| {failure.number} | {failure.what} | {shown[0]} | {delay} | {' | '.join(shown[1:])} |")
    shown = [f"{sum(values)}/{len(values)}" if values else "" for values in totals.values()]
    lines.append(f"| | all | {shown[0]} | | {' | '.join(shown[1:])} |")
    shown = [f"{sum(values) / len(values):.1%}" if values else "" for values in totals.values()]
    lines.append(f"| | | {shown[0]} | | {' | '.join(shown[1:])} |")
    within = sum(delay is not None and delay <= WITHIN for delay in delays_of_faults)
    return "\n".join([*lines, "", f"faults of correctness found within one step: {within} of {len(delays_of_faults)}"])


def alarmed(results: list[dict[str, Any]]) -> list[str]:
    """Healthy runs that were alarmed, or called sick."""
    found: list[str] = []
    for one in results:
        if one["number"] == "healthy":
            loud = [f"{said['name']}@{said['step']}" for said in one.get("said", []) if not said["is_note"]]
            loud += [f"cause:{name}" for name in one.get("troubles", [])]
            if loud or one.get("error") or one.get("crash"):
                found.append(f"{one['seed']}: {' '.join(loud)} {one.get('error', '')}{one.get('crash', '')}")
    return found


def noted(results: list[dict[str, Any]]) -> list[str]:
    """Healthy runs that noted something while they trained, which claims nothing."""
    found: list[str] = []
    for one in results:
        notes = [f"{said['name']}@{said['step']}" for said in one.get("said", []) if said["step"] and said["is_note"]]
        if one["number"] == "healthy" and notes:
            found.append(f"{one['seed']}: {' '.join(notes)}")
    return found


def brief(one: dict[str, Any]) -> dict[str, Any]:
    """A run in a line of a file: what it said by name and step, what stood first, and how that is judged."""
    failure = next((failure for failure in FAILURES if failure.number == one["number"]), None)
    kept = {name: one[name] for name in ("number", "seed", "since", "troubles", "error", "crash") if one.get(name)}
    said = [f"{said['name']}@{said['step']}{' (note)' * said['is_note']}" for said in one.get("said", [])]
    return kept | {"said": said, "causes": one.get("causes", [])[:3]} | (judged(failure, one) if failure else {})
