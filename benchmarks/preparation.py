"""How long large data takes until the first step: time, cores, memory, lines of progress, kills.

    python benchmarks/preparation.py FOLDER... --megabytes 2000 --kills 20 --out preparation.json

Makes JSON lines from the .txt, .jsonl and .gz files below FOLDER (documents of a few kilobytes, drawn anew until there
is enough, each with words of its own), trains one step on them from an empty cache, and again from the cache. Then it
tokenises the same documents with the library alone (`encode_batch_fast`), and starts the same preparation over and
over, killed at random moments, until it ends. Needs psutil.
"""

import argparse
import gzip
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import tokenizers

from thetahat.core.layout import STREAM
from thetahat.data.corpus.encode import Encoding
from thetahat.data.corpus.rows import Rows, encode_batches
from thetahat.data.read.record import Record
from thetahat.data.tokens.tokenizer import load_tokenizer

QUICK = ["max_steps=1", "evaluation.final=false", "data.context=128", "batch_size=4", "micro_batch_size=4"]
SMALL = ["model.num_layers=1", "model.width=64", "model.num_heads=2", "evaluation.every=0"]


def passages(folders: list[Path]) -> list[str]:
    """Texts of one to some thousand characters."""
    found: list[str] = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        name = path.name.removesuffix(".gz")
        if not name.endswith((".txt", ".jsonl")):
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode()
        if name.endswith(".jsonl"):
            text = "\n".join(
                value for line in text.splitlines() for value in json.loads(line).values() if isinstance(value, str)
            )
        found += [text[start : start + 1500] for start in range(0, len(text), 1500)]
    return found


def write(path: Path, some: list[str], megabytes: int, seed: int) -> None:
    """Documents of one to four passages and a few words that no other has, a line each."""
    draw, size = random.Random(seed), 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1_000_000:
            own = " ".join("".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(3, 9))) for _ in range(8))
            text = "\n".join([own, *draw.choices(some, k=draw.randint(1, 4))])
            size += len(text.encode())
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


class Watched:
    """A command with all processes below it."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path | None = None) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self.lines: list[tuple[float, str]] = []
        self.memory = 0
        self._log = log
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._look)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append((time.monotonic() - self.started, line.decode(errors="replace").rstrip()))
        if self._log:
            self._log.write_text("\n".join(f"{when:8.2f} {line}" for when, line in self.lines))

    def _look(self) -> None:
        while self.process.poll() is None:
            try:
                every = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
                self.memory = max(self.memory, sum(one.memory_full_info().pss for one in every))
            except psutil.Error:
                pass
            time.sleep(0.25)

    def end(self, timeout: float | None = None) -> dict[str, float]:
        """Waits for its end, or kills it and all of its processes after `timeout` seconds."""
        before = os.times()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        after = os.times()
        for thread in self._threads:
            thread.join(5)
        wall = time.monotonic() - self.started
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        times = [0.0, *(when for when, _ in self.lines), wall]
        longest = max(later - earlier for earlier, later in itertools.pairwise(times))
        return {"wall_s": wall, "cpu_s": cpu, "peak_pss_mb": self.memory / 1e6, "longest_silence_s": longest}


def train(data: Path, cache: Path, runs: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    """The command and its environment."""
    program = [str(Path(sys.executable).with_name("thetahat")), "train", f"data.train={data}", "--out", str(runs)]
    return [*program, *QUICK, *SMALL, *more], {**os.environ, "THETAHAT_CACHE": str(cache)}


def alone(data: Path, tokenizer: Path) -> float:
    """CPU seconds of the library alone on all documents."""
    inner, batch = tokenizers.Tokenizer.from_file(str(tokenizer)), list[str]()
    spent, begun = 0.0, time.process_time()
    with data.open(encoding="utf-8") as file:
        for line in file:
            batch.append(json.loads(line)["text"])
            if len(batch) >= 512:
                begun = time.process_time()
                inner.encode_batch_fast(batch)
                spent += time.process_time() - begun
                batch = []
    begun = time.process_time()
    inner.encode_batch_fast(batch)
    return spent + time.process_time() - begun


def paired(data: Path, path: Path, number: int = 4000, rounds: int = 5) -> dict[str, float]:
    """CPU seconds of ours and of the library alone on the same documents, in turns; medians, on one thread.

    Ours makes the rows of the corpus, with the bytes of each token, the documents and their digests.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with data.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, number)]
    records = [Record(text, f"r{index}", f"r{index}", "s", 1.0) for index, text in enumerate(texts)]
    inner, ours = tokenizers.Tokenizer.from_file(str(path)), load_tokenizer(path)

    def library() -> None:
        for start in range(0, len(texts), 512):
            inner.encode_batch_fast(texts[start : start + 512])

    def rows() -> None:
        for _ in encode_batches(records, Rows(ours), ours, Encoding(STREAM), lambda error: None):
            pass

    spent: dict[str, list[float]] = {"library": [], "rows": []}
    for _ in range(rounds):
        for name, work in (("library", library), ("rows", rows)):
            begun = time.process_time()
            work()
            spent[name].append(time.process_time() - begun)
    found = {name: statistics.median(values) for name, values in spent.items()}
    return found | {"ratio": found["rows"] / found["library"]}


def digest(cache: Path) -> dict[str, str]:
    """Of each corpus in the cache, what its manifest says of its files."""
    found = {}
    for folder in sorted((cache / "corpora").iterdir()):
        if (folder / "manifest.json").is_file():
            found[folder.name] = json.loads((folder / "manifest.json").read_bytes())["sha256"]
    return found


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--place", type=Path, help="where the data, caches and runs go; else a temporary folder")
    typed = parser.parse_args()
    place = typed.place or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    data = place / f"{typed.megabytes}.jsonl"
    if not data.exists():
        write(data, passages(typed.folders), typed.megabytes, seed=1)
    told: dict[str, object] = {"megabytes": data.stat().st_size / 1e6, "cores": os.cpu_count()}
    command, environment = train(data, place / "cache", place / "run")
    told["first"] = Watched(command, environment, place / "first.log").end()
    print(json.dumps(told["first"]), flush=True)
    expected = digest(place / "cache")
    command, environment = train(data, place / "cache", place / "again", f"data.tokenizer={place}/run/tokenizer.json")
    told["again"] = Watched(command, environment, place / "again.log").end()
    print(json.dumps(told["again"]), flush=True)
    told["encode_batch_fast_cpu_s"] = alone(data, place / "run" / "tokenizer.json")
    told["encoding"] = paired(data, place / "run" / "tokenizer.json")
    print(told["encode_batch_fast_cpu_s"], told["encoding"], flush=True)
    if typed.kills:
        told["killed"] = killed(data, place, typed.kills, told["first"]["wall_s"])  # pyright: ignore
        told["same_digest"] = digest(place / "killed-cache") == expected
    print(json.dumps(told, indent=2))
    if typed.out:
        typed.out.write_text(json.dumps(told, indent=2) + "\n")


def killed(data: Path, place: Path, times: int, whole: float) -> dict[str, float]:
    """Kills the preparation `times` times, evenly at random over what one takes, and then lets it end."""
    draw, spent = random.Random(7), 0.0
    command, environment = train(data, place / "killed-cache", place / "killed")
    for _ in range(times):
        moment = draw.uniform(0.2, 2 * whole / times)
        found = Watched(command, environment).end(moment)
        spent += found["wall_s"]
    last = Watched(command, environment, place / "killed.log").end()["wall_s"]
    return {"kills": times, "wall_s": spent + last, "lost_s_a_kill": (spent + last - whole) / times}


if __name__ == "__main__":
    main()
