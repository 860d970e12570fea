"""How long a command takes to start: processor seconds, user and system, which neighbours disturb less than a clock.

    python benchmarks/startup.py [--repeats 5] [--out benchmarks/results/startup.json]

Each command runs in a process of its own, in turn with the others, with bytecode and the cache of data warm; of the
repeats the least and the median are shown. `import torch` stands beside them: most of what is left is its own.
Training is ended when its first step is logged; all others run to their end.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ASKED = {"--help": 0.3, "recipes": 0.3, "score": 3.0, "train": 6.0}  # seconds
TICKS = os.sysconf("SC_CLK_TCK")  # of a processor, a second
TEN = [f"What is past is prologue: this is document {number} of ten." for number in range(10)]


def spent(pid: int) -> float:
    """Processor seconds of a process that runs."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICKS


def whole(command: list[str], environment: dict[str, str]) -> float:
    """Processor seconds of a process, from its beginning to its end."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def to_first_step(command: list[str], environment: dict[str, str], folder: Path) -> float:
    """Processor seconds of a training until its first step is logged."""
    shutil.rmtree(folder, ignore_errors=True)
    log = folder / "metrics.jsonl"
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (log.is_file() and log.stat().st_size):
            time.sleep(0.005)
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        found = spent(process.pid)
        process.kill()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        environment = {**os.environ, "THETAHAT_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
        environment |= {"PYTHONPYCACHEPREFIX": str(place / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        us = [sys.executable, "-m", "thetahat"]
        (place / "ten.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEN))
        trained, run = place / "trained", place / "run"
        training = [*us, "train", "quickstart", "threads=1"]
        whole([*training, "--out", str(trained), "max_steps=1", "evaluation.max_documents=1"], environment)
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "--help": [*us, "--help"],
            "recipes": [*us, "recipes"],
            "score": [*us, "score", str(trained), str(place / "ten.jsonl"), "threads=1"],
            "train": [*training, "--out", str(run)],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for repeat in range(typed.repeats + 1):  # the first one warms caches
            for name, command in commands.items():
                took = to_first_step(command, environment, run) if name == "train" else whole(command, environment)
                if repeat:
                    seconds[name].append(took)
    for name, each in seconds.items():
        asked = f"  asked {ASKED[name]:.1f}" if name in ASKED else ""
        print(f"{name:14s} least {min(each):6.2f}  median {statistics.median(each):6.2f} s of a processor{asked}")
    if typed.out:
        about = {"python": platform.python_version(), "platform": platform.platform(), "busy": os.getloadavg()}
        typed.out.write_text(json.dumps({"about": about, "asked": ASKED, "seconds": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
