"""Two network namespaces as two hosts: one rank on each, the same bits as on one host, whatever becomes of a host."""

import time

import pytest

from benchmarks.two_hosts import Hosts, can_make_hosts
from tests.launch import small

STEPS = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.multi,
    pytest.mark.skipif(not can_make_hosts(), reason="needs root, network namespaces, and iproute2's ip and tc"),
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return small.expected(tmp_path_factory.mktemp("one-host"), STEPS)


@pytest.fixture
def hosts():
    with Hosts() as found:
        yield found


class Pair:
    """A run that a launcher on each host trains."""

    def __init__(self, hosts, folder):
        self.hosts, self.folder, self.run = hosts, folder, folder / "run"
        self.words = ["-m", "thetahat", "train", *small.words(folder, STEPS), "--out", str(self.run)]

    def start(self, host, restarts=0):
        settings = small.settings(self.folder)
        return self.hosts.torchrun(host, self.words, self.folder / f"log-{host}", restarts=restarts, **settings)

    def until(self, happens, seconds=240):
        end = time.monotonic() + seconds
        while not happens():
            assert time.monotonic() < end, self.said()
            time.sleep(0.1)

    def until_step(self, step):
        self.until(lambda: len(small.lines(self.run)) >= step)

    def said(self):
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("log-?")))


def test_a_rank_on_each_of_two_hosts_computes_the_bits_of_one_host(hosts, tmp_path, expected):
    pair = Pair(hosts, tmp_path)
    launchers = [pair.start(host) for host in (0, 1)]
    assert [launcher.wait(240) for launcher in launchers] == [0, 0], pair.said()
    assert small.outcome(pair.run) == expected


def test_a_host_that_is_lost_is_replaced_while_the_other_launcher_waits(hosts, tmp_path, expected):
    """The launcher that is left starts its rank again once the same command runs on the second host again."""
    pair = Pair(hosts, tmp_path)
    left, lost = pair.start(0, restarts=3), pair.start(1, restarts=3)
    pair.until_step(12)
    hosts.kill(lost)
    again = pair.start(1, restarts=3)
    assert [launcher.wait(240) for launcher in (left, again)] == [0, 0], pair.said()
    assert small.outcome(pair.run) == expected


def test_after_the_loss_of_the_first_host_the_same_commands_go_on(hosts, tmp_path, expected):
    """It has the store at which launchers meet: the other one ends by itself, and both are started again."""
    pair = Pair(hosts, tmp_path)
    lost, left = pair.start(0, restarts=3), pair.start(1, restarts=3)
    pair.until_step(12)
    hosts.kill(lost)
    assert left.wait(120) != 0
    launchers = [pair.start(host) for host in (0, 1)]
    assert [launcher.wait(240) for launcher in launchers] == [0, 0], pair.said()
    assert small.outcome(pair.run) == expected
