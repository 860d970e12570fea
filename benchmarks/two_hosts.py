"""Two network namespaces as two hosts: bytes and seconds of what ranks say to each other, against a model.

    python benchmarks/two_hosts.py [--steps 12] [--rates 1000,200,100] [--out results/two_hosts.json]

A pair of virtual interfaces joins the namespaces, torchrun runs in each, and `tc tbf` limits the bandwidth of either
direction. Two ranks train the quickstart, one a host, and sum its gradients. The model: an all-reduce of P parameters
in float32 among n ranks makes each rank send 2 (n - 1) / n x 4 P bytes, and takes as long as the link needs for them.
Needs Linux, root, and iproute2's `ip` and `tc`.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

import thetahat as th

ADDRESSES = "10.77.0.1", "10.77.0.2"
PORT = 29411
LATE_LAUNCHERS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # without it torch 2.13 lets no launcher join later rounds


def can_make_hosts() -> bool:
    """Whether this process may make network namespaces, and has the tools for it."""
    if os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
        return False
    name = f"th-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=False)
    return made


class Hosts:
    """Two namespaces with a link between them; inside `with`, they exist."""

    def __init__(self) -> None:
        self.names = [f"th-{os.getpid()}-{side}" for side in "ab"]
        self.links = [f"th{os.getpid()}{side}" for side in "ab"]  # at most 15 characters
        self.started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Hosts":
        try:
            for name in self.names:
                _ip("netns", "add", name)
            ends = [("netns", name, "name", link) for name, link in zip(self.names, self.links, strict=True)]
            _ip("link", "add", *ends[0][2:], *ends[0][:2], "type", "veth", "peer", *ends[1][2:], *ends[1][:2])
            for name, link, address in zip(self.names, self.links, ADDRESSES, strict=True):
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "link", "set", link, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.started:
            self.kill(process)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def torchrun(
        self, host: int, words: list[str], log: Path, *, restarts: int = 0, **environment: str
    ) -> subprocess.Popen[bytes]:
        """A launcher with one rank on this host. The first host has the store at which they meet."""
        meet = [
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={ADDRESSES[0]}:{PORT}",
            f"--rdzv-conf=is_host={int(host == 0)}",
        ]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *meet]
        launcher += ["--rdzv-id=two-hosts", f"--local-addr={ADDRESSES[host]}", f"--max-restarts={restarts}"]
        settings = {"GLOO_SOCKET_IFNAME": self.links[host], "OMP_NUM_THREADS": "1", **LATE_LAUNCHERS, **environment}
        with log.open("ab") as said:
            command = ["ip", "netns", "exec", self.names[host], *launcher, *words]
            process = subprocess.Popen(
                command, env=os.environ | settings, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.started.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Ends a launcher and its rank at once, as a host that loses power does, but for what its kernel still says."""
        host = next(name for name in self.names if name in process.args)
        inside = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout
        if process.poll() is None:
            for pid in inside.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        process.wait()

    def limit(self, megabits: int | None) -> None:
        """Limits what each host sends, in Mbit/s; None: no limit."""
        for name, link in zip(self.names, self.links, strict=True):
            root = ["tc", "-n", name, "qdisc"]
            subprocess.run([*root, "del", "dev", link, "root"], capture_output=True, check=False)
            if megabits:
                bucket = ["tbf", "rate", f"{megabits}mbit", "burst", "64kb", "latency", "400ms"]
                subprocess.run([*root, "add", "dev", link, "root", *bucket], check=True)

    def cut(self) -> None:
        """Takes the link away: nothing arrives any more, and nobody is told."""
        _ip("-n", self.names[1], "link", "set", self.links[1], "down")

    def mend(self) -> None:
        """Puts the link back."""
        _ip("-n", self.names[1], "link", "set", self.links[1], "up")

    def sent(self, host: int) -> int:
        """Bytes that this host has sent over the link, with the headers of TCP, IP and Ethernet."""
        shown = _ip("-n", self.names[host], "-s", "-j", "link", "show", self.links[host])
        return json.loads(shown)[0]["stats64"]["tx"]["bytes"]


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def steps_of(run: Path) -> list[dict[str, float]]:
    """The steps that a run has logged so far."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line for line in whole if "log_likelihood_per_token" in line]


def train(hosts: Hosts, folder: Path, words: list[str], name: str) -> Path:
    """A run of two ranks, one a host, to its end."""
    out, log = folder / name, folder / f"{name}.log"
    command = ["-m", "thetahat", "train", *words, "--out", str(out)]
    pair = [hosts.torchrun(host, command, log) for host in (0, 1)]
    if any([process.wait(900) for process in pair]):
        raise SystemExit(log.read_text(encoding="utf-8"))
    return out


def talk(repeats: int) -> None:
    """One rank: sums the gradients of the quickstart over ranks; the first one prints the seconds of each sum."""
    world = th.join_world("cpu")
    parameters = list(th.first_model(th.find_recipe("quickstart"), 1024).parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    world.sum_gradients(parameters)  # connects
    for _ in range(repeats):
        world.barrier()
        started = time.perf_counter()
        world.sum_gradients(parameters)
        if world.is_first:
            print(f"{time.perf_counter() - started:.6f} seconds", flush=True)
    world.leave()


def bytes_of_step(hosts: Hosts, folder: Path, steps: int) -> float:
    """Bytes that a host sends in a step of training: two runs, one longer, without what both do once."""
    sizes = ["batch_size=2", "data.context=64", "device=cpu", "threads=1", "prompt=", "evaluation.final=false"]
    counts: list[int] = []
    for length in (2, 2 + steps):
        before = hosts.sent(0)
        train(hosts, folder, [*sizes, "evaluation.every=0", f"max_steps={length}"], f"steps-{length}")
        counts.append(hosts.sent(0) - before)
    return (counts[1] - counts[0]) / steps


def seconds_of_sum(hosts: Hosts, folder: Path, rate: int | None, repeats: int) -> float:
    """The median of what a sum of all gradients takes at this rate."""
    hosts.limit(rate)
    log = folder / f"rate-{rate}.log"
    pair = [hosts.torchrun(host, [__file__, "--talk", str(repeats)], log) for host in (0, 1)]
    if any([process.wait(900) for process in pair]):
        raise SystemExit(log.read_text(encoding="utf-8"))
    hosts.limit(None)
    return statistics.median(map(float, re.findall(r"([\d.]+) seconds", log.read_text(encoding="utf-8"))))


def table(hosts: Hosts, folder: Path, rates: list[int], steps: int) -> dict[str, object]:
    """What was measured, beside what the model says."""
    num_parameters = th.info(th.find_recipe("quickstart")).num_parameters
    model = 2 * (2 - 1) / 2 * 4 * num_parameters  # bytes that each rank sends
    sent = bytes_of_step(hosts, folder, steps)
    free = seconds_of_sum(hosts, folder, None, steps)
    rows: list[dict[str, float]] = []
    for rate in rates:
        measured, modelled = seconds_of_sum(hosts, folder, rate, steps), model * 8 / (rate * 1e6)
        rows.append({"mbit_per_second": rate, "seconds": measured, "model": modelled, "ratio": measured / modelled})
        print(json.dumps(rows[-1]), flush=True)
    return {
        "recipe": "quickstart",
        "parameters": num_parameters,
        "bytes_a_step": {"sent": sent, "model": model, "ratio": sent / model},
        "seconds_a_sum": {"without_limit": free, "limited": rows},
        "repeats": steps,
        "torch": torch.__version__,
        "cores": os.cpu_count(),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--rates", default="400,200,100,50,20", help="Mbit/s, with commas between")
    options.add_argument("--out", type=Path)
    options.add_argument("--talk", type=int, help=argparse.SUPPRESS)  # one rank
    asked = options.parse_args()
    if asked.talk:
        return talk(asked.talk)
    with tempfile.TemporaryDirectory() as home, Hosts() as hosts:
        found = table(hosts, Path(home), [int(rate) for rate in asked.rates.split(",")], asked.steps)
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")
    return None


if __name__ == "__main__":
    main()
