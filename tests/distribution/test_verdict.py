"""When ranks end together, and what they say then: seconds are counted beat by beat, without a clock."""

from dataclasses import replace

import pytest

from thetahat.distribution.limits import HeartbeatConfig
from thetahat.distribution.verdict import BEAT, HURRY, Heard, Judge, Sign

LIMITS = HeartbeatConfig(silence=15.0, stall=45.0, patience=1800.0)


class Ranks:
    """What rank 0 hears of `size` ranks, a beat after the other."""

    def __init__(self, size=3, limits=LIMITS, pace="stall", where="in step 17 (forward and backward)", has_agent=True):
        self.judge = Judge(limits, "node-0:29500", has_agent=has_agent, sees_all=True)
        self.signs = {rank: Sign(rank, f"node-{rank // 2}", pace=pace, where=where) for rank in range(size)}
        self.heard = Heard(signs=dict(self.signs))
        self.now = 0.0

    def beat(self, silent=(), moving=(), passed=BEAT, answers=True, **heard):
        """A beat in which all but `silent` are heard of, and `moving` come on; what is found then."""
        self.now += passed
        for rank, sign in self.signs.items():
            moves = sign.moves + (rank in moving)
            self.signs[rank] = replace(sign, beat=sign.beat + (rank not in silent), moves=moves)
        if answers:
            self.heard = replace(self.heard, rounds=self.heard.rounds + 1, signs=dict(self.signs))
        self.heard = replace(self.heard, **heard)
        return self.judge(self.heard, self.now)

    def until(self, **beat):
        """The seconds until something is found, and what."""
        began = self.now
        while self.now - began < 4000:
            if found := self.beat(**beat):
                return self.now - began, found
        return None


def warm(**settings):
    """Ranks that have made steps of two seconds."""
    ranks = Ranks(**settings)
    for number in range(10):
        assert not ranks.beat(moving=range(3) if number % 2 else ())
    return ranks


def test_a_silent_rank_is_named_with_its_host_and_place_and_so_are_others():
    seconds, found = warm().until(silent=[2], moving=[0, 1])
    assert 15 < seconds <= 17
    assert found == "rank 2 on host node-1 was last heard of 16 s ago, in step 17 (forward and backward)"
    assert warm().until(silent=[1, 2])[1].endswith("; nothing since from ranks 2")


def test_a_rank_that_is_heard_of_now_and_then_is_not_lost():
    ranks = warm()
    for number in range(200):
        assert not ranks.beat(silent=[2] if number % 14 else [], moving=[0, 1])


def test_once_a_collective_has_failed_less_silence_is_enough():
    for said in ({"is_hurried": True}, {"complaint": "Connection closed by peer"}):
        seconds, found = warm().until(silent=[1], **said)
        assert HURRY < seconds <= HURRY + 2
        assert found.startswith("rank 1 on host node-0 was last heard of 5 s ago")


def test_where_all_are_heard_of_the_collective_itself_is_named():
    found = warm().until(complaint="Connection reset by peer", is_hurried=True)[1]
    assert found == ("ranks lost their connection to each other, though all are heard of: Connection reset by peer")
    assert warm().until(is_hurried=True, moving=[0]) is None  # whose collective it was says so


def test_a_rank_that_ended_by_an_error_leaves_the_others_time_to_end_by_theirs():
    ranks = warm()
    ranks.signs[1] = replace(ranks.signs[1], ended="no space left")
    seconds, found = ranks.until(silent=[1], moving=[0, 2])
    assert 30 < seconds <= 32
    assert found == "rank 1 on host node-0 has ended in step 17 (forward and backward): no space left"


def test_a_rank_that_has_left_is_missed_only_where_a_collective_failed():
    for hurried, found in ((False, None), (True, "rank 1 on host node-0 has ended before the others")):
        ranks = warm()
        ranks.signs[1] = replace(ranks.signs[1], has_left=True)
        told = ranks.until(silent=[1], moving=[0], is_hurried=hurried)
        assert told is None if found is None else told[1].startswith(found)


def test_a_pause_of_everything_is_no_silence():
    """After Ctrl-Z and fg, or when the lid was closed."""
    ranks = warm()
    for _ in range(5):
        assert not ranks.beat(silent=range(3), passed=3600.0)
        assert not ranks.beat()


def test_a_store_that_does_not_answer_is_named():
    seconds, found = warm().until(answers=False)
    assert 15 < seconds <= 17
    assert found.startswith("torchrun at node-0:29500, where ranks hear of each other, has not answered")
    assert found.endswith("; rank 0 on host node-0 was last heard of in step 17 (forward and backward)")
    assert warm().until(answers=False, is_broken=True, complaint="Connection closed by peer")[0] <= HURRY + 1
    found = warm(has_agent=False).until(answers=False)[1]
    assert found.startswith("rank 0 on host node-0 was last heard of 16 s ago, in step 17 (forward and backward); ")


@pytest.mark.parametrize(("pause", "limit"), [(2, 45), (30, 150)])
def test_within_steps_the_limit_is_the_config_s_or_five_times_the_longest_pause(pause, limit):
    ranks = warm()
    for _ in range(pause - 1):
        assert not ranks.beat()
    assert not ranks.beat(moving=[0, 1, 2])
    ranks.signs[2] = replace(ranks.signs[2], where="in step 17 (gradient sum and update)")
    seconds, found = ranks.until()
    assert limit <= seconds <= limit + 1
    assert f"no rank has come on for {seconds:.0f} s" in found
    assert found.endswith(
        ": rank 2 on host node-1 in step 17 (gradient sum and update), 2 ranks in step 17 (forward and backward)"
    )


def test_the_first_step_an_evaluation_and_a_save_have_more_patience_and_preparation_all():
    assert Ranks(pace="stall").until()[0] == pytest.approx(1800, abs=2)  # no pause is known yet
    ranks = warm()
    ranks.signs[1] = replace(ranks.signs[1], pace="patience", where="in step 16 (save)")
    assert ranks.until()[0] == pytest.approx(1800, abs=2)
    assert warm(pace="patience").until()[0] == pytest.approx(1800, abs=2)
    ranks = warm()
    ranks.signs[1] = replace(ranks.signs[1], pace="preparation")
    assert ranks.until() is None


def test_behind_steps_too_short_to_be_seen_the_limit_is_the_config_s():
    """A beat apart signs show where ranks are, not each pause."""
    ranks = Ranks(pace="preparation")
    assert not ranks.beat()
    ranks.signs = {rank: replace(sign, pace="stall", steps=2) for rank, sign in ranks.signs.items()}
    assert not ranks.beat(moving=[0, 1, 2])
    assert ranks.until()[0] == pytest.approx(45, abs=2)
    assert Ranks(pace="stall").until()[0] == pytest.approx(1800, abs=2)


def test_the_limit_is_that_of_who_is_behind():
    ranks = warm()
    for rank in (0, 2):  # wait for rank 1, which hangs in the update
        ranks.signs[rank] = replace(ranks.signs[rank], pace="patience", begun=1, where="in step 17 (log)")
    assert ranks.until()[0] == pytest.approx(45, abs=2)
    ranks = warm()
    for rank in (0, 2):  # wait for rank 1, which plans an epoch
        ranks.signs[rank] = replace(ranks.signs[rank], begun=1)
    ranks.signs[1] = replace(ranks.signs[1], pace="patience", where="in step 17 (data)")
    assert ranks.until()[0] == pytest.approx(1800, abs=2)


def test_ranks_that_see_only_some_judge_no_pause():
    ranks = warm()
    ranks.judge._sees_all = False
    assert ranks.until() is None
