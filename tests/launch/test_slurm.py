"""The batch script of the examples under a real slurmctld; SLURM_ROOT names where its packages were unpacked."""

import re
import time
from pathlib import Path

import pytest

from tests.launch import slurm, small

SCRIPT = Path(__file__).parents[2] / "examples" / "launch" / "slurm.sh"
ONE_NODE = ["--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--gres=none"]  # what this machine has instead
STEPS = 300

pytestmark = [
    pytest.mark.slow,
    pytest.mark.multi,
    pytest.mark.skipif(not slurm.is_here(), reason="needs root and slurmctld, slurmd, slurm-client and munge"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.Cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


def until(happens, what, seconds=300):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


def test_a_requeued_job_is_saved_and_goes_on_to_the_same_bits(cluster, tmp_path):
    """By the scheduler (`scontrol requeue`, as in preemption), and by SIGTERM to its ranks (as by --signal)."""
    run, log = tmp_path / "run", tmp_path / "job.out"
    command = [*ONE_NODE, f"--output={log}", SCRIPT, *small.words(tmp_path, STEPS), "--out", run]
    job = cluster.run("sbatch", "--parsable", *command, **small.settings(tmp_path)).strip()

    def said():
        return log.read_text() if log.exists() else "no output yet"

    def stopped(times):
        return len(re.findall(r"stopped after step \d+", said())) == 2 * times  # each of two ranks says so

    def is_over():
        return cluster.state(job) in {"COMPLETED", "FAILED", "CANCELLED"}

    def goes_on():
        """Ends the time for which Slurm holds a job that was requeued."""
        until(lambda: cluster.state(job) == "PENDING", lambda: cluster.state(job) + said())
        cluster.run(
            "scontrol", "update", f"JobId={job}", "StartTime=now+5"
        )  # not within the second of the end: credentials are revoked by time

    for times, stop in [(1, ("scontrol", "requeue", job)), (2, ("scancel", "--signal=TERM", job))]:
        before = len(small.lines(run))
        until(lambda before=before: is_over() or len(small.lines(run)) > before + 10, said)
        cluster.run(*stop)
        until(lambda times=times: stopped(times), said)
        goes_on()
    until(is_over, said)
    assert cluster.state(job) == "COMPLETED", said()
    assert len(small.lines(run)) == STEPS
    assert small.outcome(run) == small.expected(tmp_path, STEPS)
