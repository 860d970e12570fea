"""Runs `thetahat` as a shell does, without waiting for torch: forked from a process that has imported it."""

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SERVER = Path(__file__).with_name("server.py")


class Done(NamedTuple):
    """What a command left, as `subprocess.CompletedProcess` has it."""

    returncode: int
    stdout: str
    stderr: str


class Attempt:
    """One process, from its start to its end."""

    def __init__(self, server, pid, out, err):
        self.server, self.pid, self._out, self._err = server, pid, out, err

    def wait(self, seconds=120.0):
        """The exit code, minus the signal's number where one ended it, None where it still runs."""
        return self.server.ask(do="wait", pid=self.pid, seconds=seconds)

    def send(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send(signal.SIGKILL)
        return self.wait()

    @property
    def is_started(self):
        return self._err.exists()

    @property
    def err(self):
        return self._err.read_text() if self.is_started else ""

    @property
    def out(self):
        return self._out.read_text()


class Server:
    def __init__(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
        self.process = subprocess.Popen(
            [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert json.loads(self.process.stdout.readline()) == "ready"

    def ask(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, folder, words, said, *, environment=None, stdin=None, **order):
        """A process in `folder`, which writes `said`.out and `said`.err."""
        out, err = (Path(f"{said}.{name}") for name in ("out", "err"))
        order = {"trap": None, "limits": {}, "sets": []} | order
        files = {"in": stdin and str(stdin), "out": str(out), "err": str(err)}
        words = [str(word) for word in words]
        pid = self.ask(do="start", folder=str(folder), environment=environment or {}, arguments=words, **files, **order)
        return Attempt(self, pid, out, err)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@functools.cache
def served():
    """The server of this process."""
    server = Server()
    atexit.register(server.close)
    return server


def started(folder, *words, environment=None, stdin="", sets=()):
    """`thetahat` with these words, with a cache in `folder`."""
    said = Path(tempfile.mkdtemp(dir=folder, prefix=".said-"))
    if stdin:
        (said / "in").write_text(stdin)
    environment = {"THETAHAT_CACHE": str(folder / "cache"), **(environment or {})}
    file = said / "in" if stdin else None
    return served().start(folder, words, said / "said", environment=environment, stdin=file, sets=list(sets))


def ended(attempt, seconds=300):
    """How it ended, and what it said."""
    code = attempt.wait(seconds)
    assert code is not None, f"still runs: {attempt.err}"
    return Done(code, attempt.out, attempt.err)


def thetahat(folder, *words, environment=None, stdin=""):
    """Runs it to its end."""
    return ended(started(folder, *words, environment=environment, stdin=stdin))


def worlds(size):
    """What torchrun puts into the environment of each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def thetahat_ranks(folder, size, *words):
    """Runs it in several processes, each a rank; what the first one left."""
    attempts = [started(folder, *words, environment=world) for world in worlds(size)]
    done = [ended(attempt) for attempt in attempts]
    return done[0]
