"""What a training step and an evaluation are of, by the way the same rows are cut into batches.

    python benchmarks/objective_table.py --peer peer/bin/python [--out results.json]

For an encoder, a decoder and an encoder-decoder, on the rows of `objective_rows.py`: the loss that a step on 8 rows
reports and the error of its gradient, relative to one batch of all 8,

    max over tensors of ‖g − g₀‖ / max(‖g₀‖, 10⁻³ ‖G₀‖),

and the loss of 37 rows that an evaluation reports, beside the mean over their targets. The peer runs in its own
environment (see `objective_peer.py`), on one thread. Weights differ between sides: compare errors, not losses.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from objective_ours import ours

PEER = Path(__file__).with_name("objective_peer.py")


def peer(python: str) -> dict[str, Any]:
    """The peer's versions and cells; what it says on standard error goes to ours."""
    single = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, str(PEER)], env=single, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(cells: list[dict[str, Any]], titles: list[str], evaluation: bool) -> list[str]:
    """Markdown: a row for each model and loss, a column for each way."""
    ways = list(dict.fromkeys(cell["way"] for cell in cells))
    lines = ["| " + " | ".join(titles + ways) + " |", "|---" * (len(titles) + len(ways)) + "|"]
    for name, loss in dict.fromkeys((cell["model"], cell["loss"]) for cell in cells):
        row = {cell["way"]: cell for cell in cells if (cell["model"], cell["loss"]) == (name, loss)}
        first = row[ways[0]]
        error = "relative_value_error" if evaluation else "relative_gradient_error"
        head = [first["kind"], name, loss] + ([f"{first['token_mean']:.4f}"] if evaluation else [])
        lines.append(
            "| " + " | ".join(head + [f"{row[way]['value']:.4f} ({row[way][error]:.1e})" for way in ways]) + " |"
        )
    return lines


def report(side: dict[str, Any]) -> str:
    """Both tables of a side, loss (relative error) in each cell."""
    versions = ", ".join(f"{library} {version}" for library, version in side["versions"].items())
    titles = ["kind", "model", "loss"]
    trained = [cell for cell in side["cells"] if "relative_gradient_error" in cell]
    evaluated = [cell for cell in side["cells"] if "relative_value_error" in cell]
    lines = [f"{side['peer']}: {versions}", "", "A step on 8 rows: loss reported (relative error of the gradient)", ""]
    lines += [*table(trained, titles, False), "", "An evaluation of 37 rows: loss reported (relative error)", ""]
    return "\n".join([*lines, *table(evaluated, [*titles, "token mean"], True)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", required=True, metavar="PYTHON", help="the Python of the peer's environment")
    parser.add_argument("--out", metavar="FILE", help="where to write the raw cells, as JSON")
    chosen = parser.parse_args()
    found = [ours(), peer(chosen.peer)]
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n\n".join(map(report, found)))
