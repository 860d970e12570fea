"""samples.jsonl: what the model wrote at some steps of its training."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thetahat.core import store
from thetahat.core.plain import fields_as_json
from thetahat.run.log.lines import whole_lines

SAMPLES = "samples.jsonl"


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model of a step wrote behind a prompt; of a masked model, the prompt filled."""

    step: int
    prompt: str
    text: str
    ended: str  # why: end, stop, length or context

    def to_dict(self) -> dict[str, Any]:
        """Its line in samples.jsonl."""
        return fields_as_json(self)


def read_samples(run: Path) -> list[Sample]:
    """What was written, in the order of the steps; lines that are torn or damaged are left out."""
    names = Sample.__dataclass_fields__
    lines = [line for line in whole_lines(run / SAMPLES) if names.keys() <= line.keys()]
    return [Sample(**{name: line[name] for name in names}) for line in lines]


def cut_samples(run: Path, step: int) -> set[int]:
    """Deletes what later steps than this one wrote, on resume, and returns the steps that are left."""
    path = run / SAMPLES
    kept = [sample for sample in read_samples(run) if sample.step <= step]
    text = "".join(f"{json.dumps(sample.to_dict())}\n" for sample in kept)
    if path.exists() and path.read_bytes() != text.encode():
        store.write_text(path, text)
    return {sample.step for sample in kept}
