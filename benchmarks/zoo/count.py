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
    """Whether it was found, when, and what stood first."""
    hits = [said for said in one.get("said", []) if said["name"] in failure.names and said["step"] >= 0]
    hits = [said for said in hits if said["step"] == 0 or said["step"] >= one["since"]]
    places = [one["causes"].index(name) for name in failure.names if name in one.get("causes", [])]
    first = hits[0] if hits else None
    return {
        "found": bool(hits) or bool(places),
        "delay": max(first["step"] - one["since"] + 1, 0) if first else None,
        "rank": min(places) + 1 if places else None,
        "suspect": None if not one.get("suspect") else bool(first and first["suspects"][:1] == [one["suspect"]]),
        "where": None if not one.get("where") else bool(first and first["where"].startswith(one["where"])),
    }


def table(results: list[dict[str, Any]]) -> str:
    """What came of it, in Markdown."""
    lines = [
        "| | failure | found | median delay | first | of three | sequence | part |",
        "|---|---|---|---|---|---|---|---|",
    ]
    totals = {"found": [], "first": [], "three": [], "suspect": [], "where": []}  # type: ignore[var-annotated]
    for failure in FAILURES:
        some = [one for one in results if one["number"] == failure.number]
        if not some:
            continue
        all_judged = [judged(failure, one) for one in some]
        columns = {
            "found": [one["found"] for one in all_judged],
            "first": [one["rank"] == 1 for one in all_judged],
            "three": [one["rank"] is not None and one["rank"] <= 3 for one in all_judged],
            "suspect": [one["suspect"] for one in all_judged if one["suspect"] is not None],
            "where": [one["where"] for one in all_judged if one["where"] is not None],
        }
        for name, values in columns.items():
            totals[name] += values
        delays = [one["delay"] for one in all_judged if one["delay"] is not None]
        delay = f"{statistics.median(delays):g}" if delays else ""
        shown = [f"{sum(values)}/{len(values)}" if values else "" for values in columns.values()]
        lines.append(f"| {failure.number} | {failure.what} | {shown[0]} | {delay} | {' | '.join(shown[1:])} |")
    shown = [f"{sum(values)}/{len(values)}" if values else "" for values in totals.values()]
    lines.append(f"| | all | {shown[0]} | | {' | '.join(shown[1:])} |")
    return "\n".join(lines)


def alarmed(results: list[dict[str, Any]]) -> list[str]:
    """Healthy runs that were alarmed, or called sick."""
    found = []
    for one in results:
        if one["number"] == "healthy":
            loud = [f"{said['name']}@{said['step']}" for said in one.get("said", []) if not said["is_note"]]
            if loud or one.get("error") or one.get("crash"):
                found.append(f"{one['seed']}: {' '.join(loud)} {one.get('error', '')}{one.get('crash', '')}")
    return found
