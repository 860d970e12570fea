"""A run that an alarm takes back, killed at any time: the same bits."""

import itertools
import json
import random
import shutil
import signal

import pytest

from tests.faults.conftest import CONFIG, WORDS, Bed, kept, outcome
from thetahat.run.log.rewinds import read_rewinds

POLICY = """
[diagnosis]
preflight = "off"
rewind_batches = 4
policies = { embedding-gradient-spike = "rewind" }
"""


class Odd(Bed):
    """One sentence over and over, learned fast, and one record that is not like the others, at step 34."""

    def __init__(self, server, folder):
        super().__init__(server, folder)
        config = (
            CONFIG.replace("max_steps = 24", "max_steps = 40")
            .replace("keep = 2", "keep = 1")
            .replace("seed = 3", "seed = 5")
        )
        config = config.replace("0.005", "0.03").replace("dropout = 0.1", "dropout = 0.02")
        (folder / "tiny.toml").write_text(config + POLICY)
        draw = random.Random(3)
        lines = [{"id": f"d{number}", "text": " ".join(WORDS[:8])} for number in range(400)]
        lines[200] = {"id": "odd", "text": "".join(draw.choice("qzxjkvwfy0123456789#@!%&") for _ in range(28))}
        (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def straight(server, tmp_path_factory):
    """The run that is not killed."""
    bed = Odd(server, tmp_path_factory.mktemp("straight"))
    bed.finish()
    bed.outcome, bed.kept, bed.rewinds = outcome(bed.run), kept(bed.run), read_rewinds(bed.run)
    assert len(bed.rewinds) == 1
    return bed


def killed_in(straight, folder, function, operation):
    """Whether there was such an operation; the run is ended and compared."""
    bed = Odd(straight.server, folder)
    shutil.copytree(straight.folder / "cache", folder / "cache")
    attempt = bed.start(trap=[function, 0, operation])
    code = attempt.wait()
    assert code in (0, -signal.SIGKILL), attempt.err
    if code != 0:
        bed.finish()
    assert (outcome(bed.run), kept(bed.run)) == (straight.outcome, straight.kept)
    assert read_rewinds(bed.run) == straight.rewinds
    shutil.rmtree(folder)
    return code != 0


@pytest.mark.parametrize("operation", [0, 60, 150])
def test_killed_while_it_goes_back_a_run_ends_in_the_same_bits(straight, tmp_path, operation):
    assert killed_in(straight, tmp_path / "bed", "go_back", operation)


@pytest.mark.slow
def test_killed_before_every_third_operation_of_going_back_a_run_ends_in_the_same_bits(straight, tmp_path):
    held = itertools.takewhile(
        lambda number: killed_in(straight, tmp_path / f"{number}", "go_back", number), itertools.count(0, 3)
    )
    num_operations = max(held)
    print(f"{num_operations} operations of going back")
    assert num_operations > 150
