"""A tiny run with everything that makes exact resume hard, and a server to try it, and end it, many times."""

import contextlib
import json
import random
import shutil
import time

import pytest

from tests.commands import served, worlds
from thetahat.core import store
from thetahat.core.errors import ModelError
from thetahat.ledger.run_ledger import read_run_ledger
from thetahat.run.folder.files import MODEL, OPTIMIZER, kind_of

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "wizards", "box", "in", "fog"]
LENGTHS = {"data": [3, 5, 2, 9, 4, 12, 7, 1, 6, 3, 8, 60], "held": [4, 6, 20]}  # words; 60 is longer than the context
CONFIG = """
recipe = "tiny"
seed = 3
device = "cpu"
threads = 1
batch_size = 3
micro_batch_size = 1
max_steps = 24

[data]
train = "data.jsonl"
held_out = "held.jsonl"
context = 32
over_long = "split"
shifts_splits = true
vocab_size = 300

[model]
kind = "decoder"
num_layers = 1
width = 16
num_heads = 2
num_kv_heads = 1
head_width = 8
inner_width = 24
dropout = 0.1

[optimization]
clip = 1.0
matrices = { kind = "muon", learning_rate = 0.02, weight_decay = 0.1 }
embeddings = { kind = "adamw", learning_rate = 0.005 }
vectors = { kind = "adamw", learning_rate = 0.005 }
schedule = { kind = "wsd", warmup_steps = 4, decay = 0.5 }

[evaluation]
every = 4

[checkpoint]
every = 3
keep = 2
"""


class Bed:
    """A folder with data, a config, a cache of its own, and runs."""

    def __init__(self, server, folder):
        self.server, self.folder, self.run = server, folder, folder / "run"
        self.attempts = 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiny.toml").write_text(CONFIG)
        chance = random.Random(0)
        for name, lengths in LENGTHS.items():
            texts = [" ".join(chance.choice(WORDS) for _ in range(length)) + "." for length in lengths]
            lines = [json.dumps({"text": text, "id": f"{name[0]}{i}"}) + "\n" for i, text in enumerate(texts)]
            (folder / f"{name}.jsonl").write_text("".join(lines))

    def start(self, *arguments, environment=None, limits=None, **options):
        self.attempts += 1
        said = self.folder / str(self.attempts)
        environment = {"THETAHAT_CACHE": str(self.folder / "cache"), **(environment or {})}
        words = list(arguments) or self.command()
        return self.server.start(self.folder, words, said, environment=environment, limits=limits or {}, **options)

    def start_ranks(self, size, *arguments):
        """As torchrun does."""
        return [self.start(*arguments, environment=world) for world in worlds(size)]

    def finish_ranks(self, size, *arguments, codes=(0,)):
        attempts = self.start_ranks(size, *arguments)
        ended = [attempt.wait() for attempt in attempts]
        assert set(ended) <= set(codes), "\n".join(attempt.err for attempt in attempts)
        return attempts

    def command(self, *more, run="run"):
        return ["train", "tiny.toml", "--out", run, "--json", *more]

    def finish(self, *arguments, code=0, **options):
        attempt = self.start(*arguments, **options)
        ended = attempt.wait()
        assert ended == code, attempt.err
        return attempt

    def until(self, attempt, holds, seconds=120.0):
        """Waits for something to be there; False if the process ended, or the time, before that.

        It sleeps between two looks: the cores are the process's, which would hardly run beside two tests that spin.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if holds():
                return True
            if attempt.wait(0.001) is not None:
                return False
        return False

    def lines(self, run=None):
        return num_lines((run or self.run) / "metrics.jsonl")


def num_lines(path):
    """Of steps; an evaluation has a line of its own."""
    return path.read_bytes().count(b"tokens_per_second") if path.exists() else 0


def outcome(run):
    """What must be the same, bit for bit: final weights and optimizer, the ledger, every line but for its clock."""
    steps = sorted((run / "checkpoints").glob("step-????????"))
    store.verify(steps[-1])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    made = [line for line in lines if "tokens_per_second" in line]
    assert [line["step"] for line in made] == list(range(1, len(made) + 1))
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    for line in lines:
        del line["seconds"]
        line.pop("tokens_per_second", None)
        line.pop("wait_seconds", None)
    pointers = {name: (run / "checkpoints" / name).read_text() for name in ("latest", "best")}
    files = {path.name: store.digest_file(path) for path in sorted(steps[-1].glob("*.safetensors"))}
    assert {kind_of(name) for name in files} >= {MODEL, OPTIMIZER}
    return {"lines": lines, "ledger": ledger_of(run, made), **pointers, **files}


def ledger_of(run, lines):
    """Its rows; those of each step come to what its line says, and no step or sequence is there twice."""
    rows = read_run_ledger(run).to_pylist()
    assert len({(row["step"], row["id"], row["part"]) for row in rows}) == len(rows)
    for line in lines:
        mine = [row for row in rows if row["step"] == line["step"]]
        weight = sum(row["weight"] * row["num_tokens"] for row in mine)
        value = sum(row["weight"] * row["log_prob"] for row in mine) / weight
        assert value == pytest.approx(line["log_likelihood_per_token"], rel=1e-9)
    assert {row["step"] for row in rows} == {line["step"] for line in lines}
    return rows


def kept(run):
    """The checkpoints that are there."""
    return sorted(path.name for path in (run / "checkpoints").glob("step-????????"))


def is_saved_as_reported(run):
    """Whether the newest checkpoint is of the last line."""
    progress = json.loads((run / "checkpoints" / verified(run)[-1] / "state.json").read_text())
    return num_lines(run / "metrics.jsonl") == progress["step"]


def verified(run):
    """The checkpoints that can be trusted."""
    found = []
    for folder in sorted((run / "checkpoints").glob("step-????????")):
        with contextlib.suppress(ModelError):
            store.verify(folder)
            found.append(folder.name)
    return found


@pytest.fixture(scope="session")
def server():
    return served()


@pytest.fixture(scope="session")
def oracle(server, tmp_path_factory):
    """The uninterrupted run."""
    bed = Bed(server, tmp_path_factory.mktemp("oracle"))
    started = time.monotonic()
    bed.finish()
    bed.seconds = time.monotonic() - started
    bed.outcome, bed.kept = outcome(bed.run), kept(bed.run)
    return bed


@pytest.fixture
def bed(server, tmp_path):
    return Bed(server, tmp_path)


@pytest.fixture
def warm(server, oracle, tmp_path):
    """A bed whose cache is built."""
    shutil.copytree(oracle.folder / "cache", tmp_path / "cache")
    return Bed(server, tmp_path)
