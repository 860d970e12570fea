"""How long `thetahat report` takes for a run of 10,000 steps, how large its page is, and how soon a browser shows it.

    python benchmarks/report.py [--steps 10000] [--run FOLDER] [--pictures FOLDER] [--out results/report.json]

The run is a tiny decoder on the speeches of the bundled text, each with its speaker as source, and some lines of random
letters among them, for which it has alarms; it is evaluated 40 times and writes samples. --run keeps it, or takes the
one that is there. The command is timed as a whole, from the start of Python on, and the page in Chromium from its
address until all figures are drawn (needs playwright, and chromium on the path). On a machine that does other work,
`chrt -r 1 python benchmarks/report.py` comes before it; Chromium sets a niceness back.
"""

import argparse
import json
import logging
import os
import platform
import random
import shutil
import statistics
import string
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from playwright.sync_api import sync_playwright

from thetahat.core.config import override
from thetahat.recipes.quickstart import quickstart
from thetahat.run.train import train

SHAPE = {"num_layers": 2, "width": 16, "num_heads": 2, "num_kv_heads": 2, "head_width": 8, "inner_width": 32}
NUM_GARBLED = 6  # records that are no text
TIMES = 7  # each is measured
VIEWS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
    "phone-dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
}


def records(path, seed=0):
    """The speeches of the bundled text, and a few records of random letters."""
    draw, lines = random.Random(seed), []
    text = (files("thetahat.data") / "bundled" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    for number, speech in enumerate(text.split("\n\n")):
        speaker = speech.split(":")[0].strip()
        lines.append({"text": speech, "id": f"speech-{number}", "source": speaker[:40]})
    for number in range(NUM_GARBLED):
        letters = "".join(draw.choices(string.printable[:94], k=200))
        lines.append({"text": letters, "id": f"garbled-{number}", "source": "garbled"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def make(folder, num_steps, home):
    """Trains the run."""
    records(home / "speeches.jsonl")
    changes = [f"data.train={home / 'speeches.jsonl'}", "data.held_out=hash:0.05", "data.context=64"]
    changes += ["data.vocab_size=512", *(f"model.{name}={value}" for name, value in SHAPE.items()), "batch_size=8"]
    changes += [f"max_steps={num_steps}", f"evaluation.every={max(num_steps // 40, 1)}", "diagnosis.preflight=warn"]
    changes += [f"checkpoint.every={max(num_steps // 10, 1)}", 'samples.prompts=["ROMEO:","JULIET:"]']
    changes += [f"samples.every={max(num_steps // 10, 1)}", "optimization.schedule.warmup_steps=100", "threads=1"]
    for _ in train(override(quickstart(), changes), folder):
        pass


def times_of(command):
    """Seconds of a whole command, several times."""
    found = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - begun)
    return found


def opening(page, pictures):
    """Seconds from the address to the last figure, in a new browser context each time; pictures of each view."""
    found = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"))
        for _ in range(TIMES):
            found.append(_opened(browser, page, VIEWS["light"])[0])
        for name, options in VIEWS.items() if pictures else ():
            view = _opened(browser, page, options)[1]
            view.screenshot(path=pictures / f"{name}.png", full_page=True)
        browser.close()
    return found


def _opened(browser, page, options):
    view = browser.new_context(**options).new_page()
    begun = time.perf_counter()
    view.goto(f"file://{page.resolve()}")
    view.wait_for_selector("html[data-drawn=yes]")
    view.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return time.perf_counter() - begun, view


def contents(run):
    """What the run has that a page shows."""
    import pyarrow.parquet as pq

    def lines(name):
        path = run / name
        return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0

    rows = sum(pq.read_metadata(path).num_rows for path in (run / "ledger").glob("*.parquet"))
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = sum("tokens_per_second" in line for line in metrics)
    told = {"steps": steps, "evaluations": len(metrics) - steps, "ledger_rows": rows}
    return told | {"alarms": lines("alarms.jsonl"), "samples": lines("samples.jsonl")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as home:
        run = told.run or Path(home) / "run"
        if not run.is_dir():
            make(run, told.steps, Path(home))
        page = run / "report.html"
        command = times_of([sys.executable, "-m", "thetahat", "report", str(run), "--quiet"])
        if told.pictures:
            told.pictures.mkdir(parents=True, exist_ok=True)
        opened = opening(page, told.pictures)
        result = {"run": contents(run), "page_bytes": page.stat().st_size}
        for name, seconds in (("command_seconds", command), ("browser_seconds", opened)):
            result[name] = {"median": round(statistics.median(seconds), 3), "worst": round(max(seconds), 3)}
    result["machine"] = {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine()}
    result["machine"] |= {"load": round(os.getloadavg()[0], 2)}
    print(json.dumps(result, indent=2))
    if told.out:
        told.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
