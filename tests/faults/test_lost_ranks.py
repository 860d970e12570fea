"""A rank that is killed, stopped or hangs: it is named, all end soon, and torchrun goes on to the same bits."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import worlds
from tests.faults.conftest import Bed, outcome, verified

pytestmark = pytest.mark.multi
RUNNER = Path(__file__).parents[1] / "struck.py"
PLACES = {  # what a rank calls there, and the number of the call; while the first rank seals, the others wait for it
    "forward": ("terms", 12, 12),
    "backward": ("backward", 12, 12),
    "evaluation": ("score_corpus", 1, 1),
    "save": ("write_tensors", 2, 2),
    "seal": ("_describe", 2, None),
    "preparation": ("_tokenizer_and_corpora", 0, None),
}
TOLD = {
    "forward": r"in step \d+ \(forward and backward\)",
    "backward": r"in step \d+ \(forward and backward\)",
    "evaluation": r"in step \d+ \(evaluation\)",
    "save": r"in step \d+ \(save\)",
    "seal": r"in step \d+ \(save\)",
}
CASES = [(place, rank) for place in TOLD for rank in (0, 1) if PLACES[place][1 + rank] is not None]
SEED = 4
OTHERS, SLOW = [*CASES[:SEED], *CASES[SEED + 1 :]], pytest.mark.slow
LAYOUTS = {"replicas": [], "shards": ["mesh.shards=2"]}
GRID = [("shards", *case) for case in CASES] + [("replicas", *CASES[SEED]), ("replicas", "backward", 1)]


class Laid(Bed):
    """A bed whose ranks are laid out so."""

    def __init__(self, server, folder, layout="replicas"):
        super().__init__(server, folder)
        self.layout = layout

    def command(self, *more, run="run"):
        return super().command(*LAYOUTS[self.layout], *more, run=run)


@pytest.fixture(scope="module")
def pairs(server, tmp_path_factory):
    """The uninterrupted run of two ranks in each layout, made once."""
    made = {}

    def pair(layout):
        if layout not in made:
            bed = made[layout] = Laid(server, tmp_path_factory.mktemp(layout), layout)
            bed.finish_ranks(2)
            bed.outcome = outcome(bed.run)
        return made[layout]

    return pair


@pytest.fixture
def pair(pairs):
    return pairs("replicas")


@pytest.fixture
def bed(server, tmp_path):
    return Laid(server, tmp_path)


def called(place, rank):
    function, *calls = PLACES[place]
    return function, calls[rank]


def struck(bed, place, rank, number, whom="self", restarts=0, more=()):
    """Under torchrun one rank strikes: the code and the words of torchrun, and the seconds from the signal on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    function, call = called(place, rank)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    launcher += [f"--master-port={port}", f"--max-restarts={restarts}"]
    words = [*launcher, RUNNER, rank, function, call, number.name, whom, *bed.command(*more)]
    environment = os.environ | {"THETAHAT_CACHE": str(bed.folder / "cache"), "OMP_NUM_THREADS": "1"}
    with (bed.folder / "said").open("w") as said:
        code = subprocess.run(
            [str(word) for word in words], cwd=bed.folder, env=environment, stdout=said, stderr=said, timeout=600
        ).returncode
    seconds = time.time() - float((bed.folder / "struck").read_text())
    for one in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(int((bed.folder / f"pid-{one}").read_text()), 0)
    said = (bed.folder / "said").read_text()
    of_ranks = sorted(map(int, re.findall(r"exitcode  : (-?\d+)", said)))  # as torchrun tells them
    reasons = re.findall(r"thetahat: (.*)", said)
    cell = {"layout": bed.layout, "place": place, "rank": rank, "signal": number.name, "to": whom}
    told = {"restarts": restarts, "seconds": round(seconds, 1), "codes": of_ranks, "reason": (reasons or [""])[-1]}
    print(json.dumps(cell | told))
    return code, said, seconds


def goes_on(bed, pair):
    """The next start comes to the bits of the uninterrupted run."""
    assert verified(bed.run)
    bed.finish_ranks(2)
    assert outcome(bed.run) == pair.outcome


@pytest.mark.parametrize(("place", "rank"), [CASES[SEED], *(pytest.param(*one, marks=SLOW) for one in OTHERS)])
def test_torchrun_goes_on_to_the_same_bits_behind_a_rank_that_was_killed(bed, pair, place, rank):
    code, said, _ = struck(bed, place, rank, signal.SIGKILL, restarts=2)
    assert code == 0, said
    assert outcome(bed.run) == pair.outcome


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "place", "rank"), GRID)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_killed_or_stopped_ends_all_within_a_minute_and_is_named(
    server, tmp_path, pairs, layout, place, rank, number
):
    bed = Laid(server, tmp_path, layout)
    code, said, seconds = struck(bed, place, rank, number)
    assert code != 0
    assert seconds < 60
    told = rf"rank {rank} on host \S+ was last heard of \d+ s ago, {TOLD[place]}\n +try: "
    assert re.search(f"thetahat: {told}", said), said
    assert re.search(rf"exitcode  : 11 .*\n.*\n  traceback : {told}", said), said
    goes_on(bed, pairs(layout))


@pytest.mark.slow
def test_torchrun_goes_on_to_the_same_bits_behind_a_rank_that_was_stopped(bed, pair):
    code, said, _ = struck(bed, "backward", 1, signal.SIGSTOP, restarts=1)
    assert code == 0, said
    assert outcome(bed.run) == pair.outcome


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "place", "rank"), GRID)
@pytest.mark.parametrize("whom", ["self", "launcher"])
def test_a_rank_or_a_node_that_is_told_to_end_saves_and_ends_all(server, tmp_path, pairs, layout, place, rank, whom):
    bed = Laid(server, tmp_path, layout)
    code, said, seconds = struck(bed, place, rank, signal.SIGTERM, whom)
    assert code != 0
    assert seconds < 60
    assert re.search(r"stopped after step \d+; saved ", said), said
    if whom == "self":
        assert len(re.findall(r"exitcode  : 143 ", said)) == 2, said
    goes_on(bed, pairs(layout))


@pytest.mark.parametrize("rank", [random.Random(SEED).choice([0, 1])])
def test_a_rank_that_is_stopped_is_named_by_the_others(bed, pair, rank):
    """As under other launchers than torchrun, which end no rank: rank 0 holds the store."""
    ranks = bed.start_ranks(2, *bed.command("heartbeat.silence=4", "max_steps=100000"))
    assert bed.until(ranks[0], lambda: bed.lines() >= 4), ranks[0].err
    time.sleep(3)  # some signs later
    ranks[rank].send(signal.SIGSTOP)
    began = time.monotonic()
    assert ranks[1 - rank].wait(60) == 11, ranks[1 - rank].err
    print(f"SIGSTOP to rank {rank}: the other ended after {time.monotonic() - began:.1f} s")
    assert re.search(rf"rank {rank} on host \S+ was last heard of.* in step \d+ \(.*\).*\n  try: ", ranks[1 - rank].err)
    ranks[rank].send(signal.SIGCONT)
    assert ranks[rank].wait(60) == 11  # it learns that the others have ended
    assert verified(bed.run)


@pytest.mark.slow
def test_a_pause_of_all_ranks_ends_nothing(bed, pair):
    ranks = bed.start_ranks(2, *bed.command("heartbeat.silence=4"))
    assert bed.until(ranks[0], lambda: bed.lines() >= 4), ranks[0].err
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for rank in ranks:
            rank.send(number)
        time.sleep(12 if number == signal.SIGSTOP else 0)
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert outcome(bed.run) == pair.outcome


def hanging(bed, function, call, *more):
    """Two ranks, the second of which hangs where it calls a function, while it is still heard of."""
    traps = {1: (function, call, 0, "hang")}
    both = enumerate(worlds(2))
    return [bed.start(*bed.command(*more), environment=world, trap=traps.get(rank)) for rank, world in both]


@pytest.mark.slow
def test_a_rank_that_hangs_within_a_step_is_named(bed, pair):
    ranks = hanging(bed, "backward", 12, "heartbeat.stall=5")
    assert bed.until(ranks[0], lambda: bed.lines() >= 5), ranks[0].err
    began = time.monotonic()
    assert [rank.wait() for rank in ranks] == [11, 11], ranks[0].err
    print(f"a hanging rank: all ended {time.monotonic() - began:.1f} s later")
    assert re.search(r"no rank has come on for \d+ s: ", ranks[0].err)
    assert re.search(r"rank 1 on host \S+ in step \d+ \(forward and backward\)", ranks[0].err), ranks[0].err
    goes_on(bed, pair)


@pytest.mark.slow
def test_while_the_first_rank_prepares_the_others_wait(bed, pair):
    """Longer than any limit for what comes behind."""
    limits = [f"heartbeat.{name}=10" for name in ("silence", "stall", "patience")]
    code, said, seconds = struck(bed, "preparation", 0, signal.SIGCONT, "sleep", more=limits)
    assert (code, seconds > 20) == (0, True), said
    assert outcome(bed.run) == pair.outcome
