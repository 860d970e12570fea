"""Why a run went as it did: each cause where it is put in, none where nothing is wrong, and in the right order."""

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

import thetahat as th
from thetahat.diagnosis.alarms.alarm import NAMES, Alarm, Suspect
from thetahat.diagnosis.causes.alarmed import FOLLOWS, MEANINGS, alarmed, roots
from thetahat.diagnosis.causes.case import Case, Restart, Rows
from thetahat.diagnosis.causes.cause import KINDS, Cause, ranked
from thetahat.diagnosis.causes.divergence import COLUMNS, divergence
from thetahat.diagnosis.causes.judge import CHECKS, judge
from thetahat.diagnosis.causes.records import visits
from thetahat.diagnosis.finding import Finding
from thetahat.optimization.config import WSD, AdamW, Constant, Cosine, OptimizationConfig
from thetahat.optimization.schedule import learning_rate_factor
from thetahat.run.folder.checks import read_checks, write_checks

RULE = AdamW(learning_rate=0.01)


def rules(schedule=None):
    return OptimizationConfig(
        matrices=RULE, embeddings=RULE, vectors=RULE, schedule=schedule or Constant(warmup_steps=10), clip=1.0
    )


def healthy(num=400, seed=0, schedule=None, **changes):
    """A run as it should be: a curve that flattens, rows in random order, a speed that stays."""
    draw = np.random.default_rng(seed)
    step = np.arange(1.0, num + 1)
    nats = 2.0 + 3.5 * np.exp(-step / 40) + 0.02 * draw.normal(size=num)
    tokens = np.cumsum(draw.integers(900, 1100, num)).astype(float)
    speed = 1000.0 * (1 + 0.03 * draw.normal(size=num))
    chosen = rules(schedule)
    steps = {
        "step": step,
        "tokens": tokens,
        "log_likelihood_per_token": -nats,
        "gradient_norm": np.exp(0.1 * draw.normal(size=num)),
        "learning_rate_factor": np.array([learning_rate_factor(chosen.schedule, int(one) - 1, num) for one in step]),
        "tokens_per_second": speed,
        "wait_seconds": 0.01 + 0.001 * draw.random(num),
    }
    at = np.arange(50.0, num + 1, 50)
    held_out = 1.0 + np.exp(-at / 60)
    evaluations = {"step": at, "bits_per_byte": held_out, "bits_per_byte_ci95_low": held_out - 0.02}
    case = Case(
        steps,
        evaluations,
        {int(one): f"b{one:.0f}" for one in step},
        rules=chosen,
        num_steps=num,
        is_drawn=True,
        every=50,
        is_watched=True,
        findings=(),
        rows=rows(num, draw, nats),
    )
    return replace(case, **changes)


def rows(num, draw, nats, per_step=8, sources=2):
    count = num * per_step
    step = np.repeat(np.arange(1, num + 1), per_step)
    targets = draw.integers(40, 80, count)
    return Rows(
        step,
        targets,
        targets * np.repeat(nats, per_step) * np.exp(0.05 * draw.normal(size=count)),
        np.arange(count),
        draw.integers(0, sources, count),
        np.arange(count),
        [f"r{number}" for number in range(count)],
        ["web", "books"],
    )


def found(case):
    return [cause.name for cause in judge(case).causes]


def with_steps(case, **columns):
    return replace(case, steps={**case.steps, **columns})


@pytest.mark.parametrize("schedule", [Constant(warmup_steps=10), Cosine(warmup_steps=20), WSD(warmup_steps=20)])
def test_nothing_is_found_in_runs_in_which_nothing_is_wrong(schedule):
    for seed in range(15):
        verdict = judge(healthy(seed=seed, schedule=schedule))
        assert verdict.causes == (), seed
        assert verdict.is_sound
        assert len(verdict.looked) == len(CHECKS)
        assert verdict.lacking == ()


def test_what_could_not_be_looked_at_is_told():
    empty = judge(Case({}))
    assert empty.causes == ()
    assert dict(line.split(": ", 1) for line in empty.lacking)["weight of records"] == "no ledger"
    assert len(empty.looked) + len(empty.lacking) == len(CHECKS)


def test_every_cause_is_in_the_docs():
    root = Path(th.__file__).parent / "diagnosis" / "causes"
    names = {name for path in root.glob("*.py") for name in re.findall(r'Cause\(\s*"([\w-]+)"', path.read_text())}
    page = (Path(__file__).parents[2] / "docs" / "07-diagnosis.md").read_text()
    assert len(names) > 15
    assert [name for name in names if f"`{name}`" not in page] == []


# --- alarms ---------------------------------------------------------------------------------------------------------


def alarm(name, step, severity="warning", **more):
    return Alarm(name, severity, step, f"what of {name}", {}, **more)


def test_every_alarm_has_a_meaning_and_none_follows_from_itself():
    assert set(MEANINGS) == set(NAMES)
    assert set(FOLLOWS) <= set(NAMES)
    below = {name: set(FOLLOWS.get(name, ())) for name in NAMES}
    assert set().union(*below.values()) <= set(NAMES)
    for name, _ in itertools.product(NAMES, range(len(NAMES))):
        below[name] |= set().union(*(below[one] for one in below[name]))
    assert not [name for name in NAMES if name in below[name]]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 300)), max_size=12))
def test_a_root_follows_from_nothing(found):
    alarms = [alarm(name, step) for name, step in sorted(found, key=lambda one: one[1])]
    found = roots(alarms, 50)
    assert all(roots(alarms, 50)[alarms.index(root)] == root for root in found)
    told = {name for cause in alarmed(healthy(alarms=alarms)) for name in (cause.name, *cause.explains)}
    assert {one.name for one in alarms} <= told  # nothing is silent


def test_a_bad_batch_is_the_cause_of_the_spikes_in_its_step_and_names_its_sequence():
    suspect = Suspect("r7", "web", 30, 9.0, "text")
    alarms = [alarm("bad-batch", 100, suspects=(suspect,)), alarm("loss-spike", 100), alarm("gradient-spike", 101)]
    (cause,) = judge(healthy(alarms=alarms)).causes
    assert (cause.name, cause.kind, cause.step) == ("bad-batch", "trouble", 100)
    assert cause.explains == ("loss-spike", "gradient-spike")
    assert "r7 of web" in cause.evidence[0]
    assert cause.evidence[-1] == "behind it: loss-spike, gradient-spike"
    more = judge(healthy(alarms=[*alarms, alarm("loss-spike", 101)])).causes[0]
    assert more.evidence[-1] == "behind it: loss-spike (2 times), gradient-spike"
    assert cause.advice == ("diagnosis.policies.bad-batch=skip",)


def test_a_note_is_no_trouble_and_explains_nothing_that_is_more():
    (cause,) = judge(healthy(alarms=[alarm("gradient-spike", 100, "note")])).causes
    assert (cause.name, cause.kind) == ("gradient-spike", "note")
    both = judge(healthy(alarms=[alarm("gradient-spike", 100, "note"), alarm("non-finite", 102, "critical")])).causes
    assert [(cause.name, cause.kind) for cause in both] == [("non-finite", "fault"), ("gradient-spike", "note")]
    both = judge(healthy(alarms=[alarm("gradient-spike", 100), alarm("non-finite", 102, "critical")])).causes
    assert [(cause.name, cause.kind, cause.explains) for cause in both] == [
        ("gradient-spike", "trouble", ("non-finite",))
    ]


def test_an_embedding_gradient_is_the_cause_of_the_spike_behind_it():
    alarms = [alarm("embedding-gradient-spike", 90, "critical"), alarm("loss-spike", 94), alarm("diverging", 98)]
    assert found(healthy(alarms=alarms)) == ["embedding-gradient-spike"]


def test_a_spike_that_is_far_from_it_has_another_cause():
    alarms = [alarm("bad-batch", 100), alarm("loss-spike", 200)]
    assert found(healthy(alarms=alarms)) == ["bad-batch", "loss-spike"]
    assert judge(healthy(alarms=alarms)).causes[1].strength == "weak"


def test_what_is_measured_late_explains_what_came_before_and_begins_with_it():
    alarms = [alarm("loss-spike", 120), alarm("bad-batch", 130), alarm("learning-rate-too-high", 200)]
    (cause,) = judge(healthy(alarms=alarms)).causes
    assert (cause.name, cause.step) == ("learning-rate-too-high", 120)
    assert set(cause.explains) == {"loss-spike", "bad-batch"}


@pytest.mark.parametrize(("ratio", "strength"), [(0.2, "strong"), (0.001, "weak")])
def test_a_divergence_that_nothing_explains_is_a_rate_that_is_too_high(ratio, strength):
    ratios = np.full(400, np.nan)
    ratios[49::50] = 0.001
    ratios[99] = ratio
    alarms = [alarm("loss-spike", 101), alarm("diverging", 105, "critical")]
    case = with_steps(healthy(alarms=alarms), **{"signals/update_ratio/head": ratios})
    (cause,) = judge(case).causes
    assert (cause.name, cause.strength, cause.step) == ("learning-rate-too-high", strength, 101)
    assert cause.explains == ("diverging", "loss-spike")
    assert "optimization.matrices.learning_rate=0.005" in cause.advice
    assert any("moved head" in line for line in cause.evidence)
    assert ("half the learning rates" in cause.cure) == (strength == "weak")


def test_faults_come_before_trouble_before_notes_and_the_earlier_first():
    causes = [Cause(f"{kind}{step}", kind, "strong", step, "", ()) for kind in reversed(KINDS) for step in (9, 3)]
    names = ["fault3", "fault9", "trouble3", "trouble9", "note3", "note9"]
    assert [one.name for one in ranked(causes)] == names
    both = [replace(causes[0], strength=strength, name=strength) for strength in ("weak", "certain", "strong")]
    assert [one.name for one in ranked(both)] == ["certain", "strong", "weak"]


# --- the curve ------------------------------------------------------------------------------------------------------


def with_nats(case, nats):
    return with_steps(case, log_likelihood_per_token=-np.asarray(nats))


def test_a_run_that_learned_nothing_is_stuck():
    noise = 0.01 * np.random.default_rng(0).normal(size=400)
    assert found(with_nats(healthy(), 5.5 + noise)) == ["loss-stuck"]
    assert found(with_nats(healthy(is_drawn=False), 5.5 + noise)) == []


def test_a_likelihood_that_falls_and_stays_is_told_without_alarms():
    case = healthy()
    nats = case.nats + 1.5 * (case.step > 250)
    cause = judge(with_nats(case, nats)).causes[0]
    assert cause.name == "likelihood-lost"
    assert 200 <= cause.step <= 281
    lost = with_nats(case, nats)
    assert "likelihood-lost" in found(replace(lost, alarms=[alarm("bad-batch", 30)]))
    for name in ("diverging", "non-finite", "learning-rate-too-high"):  # it is their cause that is told
        assert "likelihood-lost" not in found(replace(lost, alarms=[alarm(name, 255)]))


def test_what_is_held_out_grew_worse_beyond_its_interval():
    case = healthy()
    best = dict(case.evaluations)
    worse = case.evaluations["bits_per_byte"].copy()
    worse[-1] = worse.min() + 0.1
    falling = with_nats(case, case.nats - 0.001 * case.step)
    for low, names in ((worse - 0.02, ["overfitting"]), (worse - 0.2, [])):
        best |= {"bits_per_byte": worse, "bits_per_byte_ci95_low": low}
        assert [name for name in found(replace(falling, evaluations=best)) if name == "overfitting"] == names
    for factor, names in ((1.03, ["overfitting"]), (1.01, [])):  # without an interval 2 % are not sure
        alone = {"step": case.evaluations["step"], "bits_per_byte": np.append(worse[:-1], factor * worse[:-1].min())}
        assert [name for name in found(replace(falling, evaluations=alone)) if name == "overfitting"] == names
    rising = with_nats(case, case.nats + 0.001 * case.step)
    assert "overfitting" not in found(replace(rising, evaluations=best | {"bits_per_byte_ci95_low": worse}))


def test_a_run_that_was_still_learning_was_too_short():
    case = healthy()
    nats = 7.0 - 0.5 * np.log(case.steps["tokens"] / 1000) + 0.01 * np.random.default_rng(0).normal(size=400)
    (cause,) = judge(with_nats(case, nats)).causes
    assert (cause.name, cause.kind, cause.advice) == ("too-short", "note", ("max_steps=800",))
    gain = float(cause.evidence[0].split("gain ")[1].split()[0])
    assert gain == pytest.approx(0.5 * math.log(2), rel=0.05)
    assert cause.strength == "strong"
    noise = 0.001 * np.random.default_rng(0).normal(size=400)
    (cause,) = judge(with_nats(case, 5.0 - 0.2 * np.log(case.steps["tokens"] / 1000) + noise)).causes
    assert (cause.name, cause.strength) == ("too-short", "weak")
    assert found(replace(with_nats(case, nats), num_steps=1000, rules=None)) == []  # it has not ended


def test_a_rate_that_was_low_for_long_while_the_curve_fell_decayed_early():
    case = healthy(num_steps=None, rules=None)
    factor = np.where(case.step < 200, 1.0, 0.02)
    falling = with_nats(case, 7.0 - 0.5 * np.log(case.steps["tokens"]))
    flat = with_nats(case, 7.0 - 0.5 * np.log(np.minimum(case.steps["tokens"], 200_000)))
    assert found(with_steps(falling, learning_rate_factor=factor)) == ["rate-decayed-early"]
    assert found(with_steps(flat, learning_rate_factor=factor)) == []
    assert found(falling) == []
    tokens = case.steps["tokens"]  # it fell by the decay alone
    helped = with_nats(case, 7.0 - 0.5 * np.log(np.maximum(tokens, 200_000)) + np.minimum(tokens, 200_000) / 1e6)
    assert found(with_steps(helped, learning_rate_factor=factor)) == []


# --- what was read --------------------------------------------------------------------------------------------------


def test_sources_in_long_stretches_are_an_order_that_is_not_random():
    case = healthy()
    stretches = (case.rows.step // 25) % 2
    cause = judge(replace(case, rows=replace(case.rows, source=stretches))).causes[0]
    assert (cause.name, cause.kind) == ("order-correlated", "note")  # the likelihood does not show it
    assert "repeats every 50 steps" in cause.evidence[1]
    shown = with_nats(case, case.nats + 0.1 * (np.arange(1, 401) // 25 % 2))
    cause = judge(replace(shown, rows=replace(case.rows, source=stretches))).causes[0]
    assert (cause.name, cause.kind, cause.strength) == ("order-correlated", "trouble", "strong")


def test_batches_that_come_again_in_their_order_are_a_fault():
    case = healthy()
    again = {step: f"b{step - 200 if step > 300 else step}" for step in range(1, 401)}
    (cause,) = judge(replace(case, batches=again)).causes
    assert (cause.name, cause.kind, cause.step) == ("batches-again", "fault", 301)
    assert "those of step 101" in cause.evidence[0]
    same = dict.fromkeys(range(1, 401), "all of the data")
    assert found(replace(case, batches=same)) == []
    twice = case.batches | {10: "b3"}
    assert found(replace(case, batches=twice)) == []  # one batch, as by chance


@pytest.mark.parametrize("size", [1, 2, 3, 10, 50])
def test_small_epochs_in_random_order_are_not_taken_for_replayed_ones(size):
    draw = np.random.default_rng(size)
    for _ in range(20):
        orders = [draw.permutation(size) for _ in range(400 // size)]
        batches = {step: f"b{one}" for step, one in enumerate(np.concatenate(orders).tolist(), start=1)}
        assert found(healthy(batches=batches)) == []
    if size > 2:
        again = {step: f"b{orders[0][step % size]}" for step in range(1, 401)}
        assert found(healthy(batches=again)) == ["batches-again"]


def test_a_rate_that_is_not_that_of_the_schedule_is_a_fault():
    case = healthy()
    factor = case.steps["learning_rate_factor"].copy()
    factor[99:] = 0.5
    (cause,) = judge(with_steps(case, learning_rate_factor=factor)).causes
    assert (cause.name, cause.kind, cause.step) == ("rate-off-schedule", "fault", 100)
    assert found(replace(with_steps(case, learning_rate_factor=factor), first_step=400)) == []  # those are its parent's


def test_a_warm_up_that_never_ends_is_noted():
    never = healthy(schedule=WSD(warmup_steps=390, decay=0.5), num=400, findings=None)  # of an older version
    assert found(never) == ["peak-never-reached"]


def test_steps_that_were_made_again_and_steps_that_are_missing_are_told():
    case = healthy()
    assert found(replace(case, twice=(7, 9))) == ["not-resumed-exactly"]
    kept = case.step != 200
    cut = replace(case, steps={name: values[kept] for name, values in case.steps.items()})
    (cause,) = judge(cut).causes
    assert (cause.name, cause.step) == ("steps-missing", 200)
    restarts = (Restart(50, {}), Restart(100, {"packages.torch": "3"}))
    (cause,) = judge(replace(case, restarts=restarts)).causes
    assert (cause.name, cause.step, cause.evidence) == (
        "environment-changed",
        100,
        ("from step 100 on: packages.torch is now 3",),
    )


# --- records --------------------------------------------------------------------------------------------------------


def test_few_long_records_that_hold_much_of_the_objective_are_named():
    case = healthy()
    targets = case.rows.targets.copy()
    targets[np.random.default_rng(0).permutation(len(targets))[:20]] = 20_000
    (cause,) = judge(replace(case, rows=replace(case.rows, targets=targets, nats=2.0 * targets))).causes
    assert (cause.name, cause.kind, cause.advice) == ("length-dominated", "note", ())
    by_hand = targets.sum() ** 2 / (targets**2).sum()
    assert f"N_eff = {by_hand:,.0f}" in cause.evidence[1]
    assert f"r{np.argmax(targets)}, " in cause.evidence[0]


def visits_by_loops(rows):
    """Changes of the first two visits of each text, with the level of a step as a median over 11 steps."""
    steps = sorted(set(rows.step.tolist()))
    nats = [sum(rows.nats[rows.step == step]) / sum(rows.targets[rows.step == step]) for step in steps]
    level = {}
    for place, step in enumerate(steps):
        around = [nats[min(max(place + offset, 0), len(steps) - 1)] for offset in range(-5, 6)]
        level[step] = sorted(around)[5]
    seen, changes = {}, {}
    for row in sorted(range(len(rows.step)), key=lambda row: rows.step[row]):
        key = rows.text[row], rows.targets[row]
        relative = rows.nats[row] / rows.targets[row] / level[rows.step[row]]
        seen.setdefault(key, []).append(relative)
        if len(seen[key]) == 2:
            changes[key] = seen[key][1] / seen[key][0]
    return changes


def duplicated(case, factor, is_duplicate=True):
    """60 rows of the second half have the texts of the first 60, and cost `factor` times what others cost."""
    table, half = case.rows, len(case.rows.step) // 2
    again = half + np.random.default_rng(0).permutation(half)[:60]
    text, record, targets, nats = (one.copy() for one in (table.text, table.record, table.targets, table.nats))
    nats[again] *= factor * targets[:60] / targets[again]
    text[again], targets[again] = text[:60], targets[:60]
    if not is_duplicate:
        record[again] = record[:60]
    return replace(case, rows=replace(table, text=text, record=record, targets=targets, nats=nats))


def test_visits_are_compared_as_by_loops():
    case = duplicated(healthy(num=80), 0.7)
    seen = visits(case.rows)
    expected = visits_by_loops(case.rows)
    keys = zip(case.rows.text[seen.first].tolist(), case.rows.targets[seen.first].tolist(), strict=True)
    assert dict(zip(keys, seen.change.tolist(), strict=True)) == pytest.approx(expected)
    assert len(expected) == 60


@pytest.mark.parametrize(("is_duplicate", "name"), [(True, "memorised-duplicates"), (False, "memorised-records")])
def test_texts_that_were_learned_by_heart_are_named(is_duplicate, name):
    cause = judge(duplicated(healthy(), 0.2, is_duplicate)).causes[0]
    assert cause.name == name
    assert "of 60 that were read again 60 cost less" in cause.evidence[0]
    assert found(duplicated(healthy(), 0.9, is_duplicate)) == []


def test_a_curve_that_falls_for_all_is_no_memory():
    case = duplicated(healthy(), 1.0)  # all cost 5.5 nats at the first visit and 2 at the second
    assert found(case) == []


# --- the clock ------------------------------------------------------------------------------------------------------


def test_waiting_for_data_is_told_with_its_share():
    case = healthy()
    wait = np.full(400, 0.3)
    (cause,) = judge(with_steps(case, wait_seconds=wait)).causes
    share = float(cause.evidence[0].split("%")[0])
    assert cause.name == "starved"
    assert share == pytest.approx(100 * 0.3 / np.mean(case.seconds[10:]), abs=1)
    some = with_steps(case, wait_seconds=0.2 * case.seconds)
    assert found(some) == ["starved"]
    assert found(replace(some, is_on_cpu=True)) == []  # there the same cores make batches, up to 30 %
    assert found(with_steps(replace(case, is_on_cpu=True), wait_seconds=0.4 * case.seconds)) == ["starved"]
    stall = np.where(case.step == 222, 100.0, 0.01)
    (cause,) = judge(with_steps(case, wait_seconds=stall)).causes
    assert (cause.name, cause.step) == ("starved", 222)


def test_a_run_that_slows_down_is_told_from_where():
    case = healthy()
    slow = case.steps["tokens_per_second"] * np.where(case.step > 300, 0.5, 1.0)
    assert found(with_steps(case, tokens_per_second=slow)) == []  # one change in the last quarter is no trend
    slow = case.steps["tokens_per_second"] / (1 + case.step / 300)
    (cause,) = judge(with_steps(case, tokens_per_second=slow)).causes
    assert cause.name == "slowed-down"
    assert 100 < cause.step < 300


# --- two runs -------------------------------------------------------------------------------------------------------


def test_the_same_run_differs_nowhere():
    told = divergence(healthy(), healthy())
    assert told.departures == ()
    assert "bit for bit, in all 400 steps" in told.verdict
    assert "no step in common" in divergence(healthy(), Case({})).verdict


@given(st.dictionaries(st.sampled_from([*COLUMNS]), st.integers(1, 60), min_size=1))
def test_the_first_step_of_each_signal_is_found(first):
    ours = theirs = healthy(60)
    for signal, step in first.items():
        values = theirs.steps[COLUMNS[signal]].copy()
        values[step - 1 :] = np.nextafter(values[step - 1 :], np.inf)
        theirs = with_steps(theirs, **{COLUMNS[signal]: values})
    told = divergence(ours, theirs)
    assert {one.signal: one.step for one in told.departures} == first
    assert [one.step for one in told.departures] == sorted(first.values())


def test_it_is_said_what_differed_first():
    ours = healthy(60)
    other = with_steps(ours, gradient_norm=np.where(ours.step >= 20, 2.0, ours.steps["gradient_norm"]))
    assert "from step 20 on: numbers, on the same batch and at the same likelihood" in divergence(ours, other).verdict
    batches = {step: f"{digest}{step >= 20}" for step, digest in ours.batches.items()}
    told = divergence(replace(ours, batches=dict(ours.batches) | {20: "x"}), replace(other, batches=ours.batches))
    assert told.departures[0].signal == "batch"  # what a step makes first comes first
    assert "what was read" in told.verdict
    assert divergence(ours, replace(ours, batches=batches)).departures[0].step == 1
    tiny = with_steps(ours, log_likelihood_per_token=ours.steps["log_likelihood_per_token"] * (1 + 1e-9))
    assert "by rounding" in divergence(ours, tiny).verdict
    for step, why in ((1, "the first parameters"), (2, "the update before")):
        nats = np.where(ours.step >= step, -9.0, ours.steps["log_likelihood_per_token"])
        verdict = divergence(ours, with_steps(ours, log_likelihood_per_token=nats)).verdict
        assert why in verdict
        assert "by rounding" not in verdict


def test_what_was_found_before_the_first_step_is_a_cause():
    wrong, note = (
        Finding("wrong-scale", "far off", "another scale"),
        Finding("odd", "so", "max_steps=7", is_wrong=False),
    )
    causes = judge(healthy(findings=(note, wrong))).causes
    assert [(one.name, one.kind, one.step, one.cure, one.advice) for one in causes] == [
        ("wrong-scale", "fault", 0, "another scale", ()),
        ("odd", "note", 0, "", ("max_steps=7",)),
    ]
    assert any(line.startswith("checks before the first step") for line in judge(healthy(findings=None)).lacking)
    assert "checks before the first step" in judge(healthy(findings=())).looked


def test_checks_are_read_as_they_were_written_and_what_is_torn_is_none(tmp_path):
    some = [Finding("wrong-scale", "far off", "another scale"), Finding("odd", "so", "max_steps=7", is_wrong=False)]
    assert read_checks(tmp_path) is None
    write_checks(tmp_path, some)
    assert read_checks(tmp_path) == tuple(some)
    (tmp_path / "checks.json").write_text('{"found": [{"na')
    assert read_checks(tmp_path) is None


def test_what_was_foreseen_and_came_is_the_cause_of_what_came():
    rate = Finding("learning-rate-too-high", "one step moves the head by 90%", "a smaller one", is_wrong=False)
    grown = Alarm("exploding-attention-logits", "critical", 20, "5,000, and it grows", {"max": 5000.0}, "blocks.0")
    alone, foreseen = judge(healthy(findings=(rate,))), judge(healthy(findings=(rate,), alarms=(grown,)))
    assert [(one.name, one.kind) for one in alone.causes] == [("learning-rate-too-high", "note")]
    assert [(one.name, one.kind, one.step) for one in foreseen.causes] == [("learning-rate-too-high", "trouble", 0)]
    assert "exploding-attention-logits" in foreseen.causes[0].explains
