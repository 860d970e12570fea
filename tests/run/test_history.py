"""The curves of a run: every whole line is read, and what cannot be read is said."""

import json
import math

from hypothesis import given, settings, strategies as st

from thetahat.run.log.history import read_history


def line(step, **numbers):
    return json.dumps({"step": step, "tokens": 10 * step, "batch": "c0ffee", **numbers})


def written(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
    return folder


def test_steps_and_evaluations_are_told_apart(tmp_path):
    lines = [line(1, gradient_norm=0.5), line(2), json.dumps({"step": 2, "held_out_bits_per_byte": 2.5,
             "held_out_bits_per_byte_ci95": [2.25, 2.75], "held_out_lossless": True})]  # fmt: skip
    found = read_history(written(tmp_path / "run", lines))
    assert found.steps["step"].tolist() == [1, 2]
    assert found.steps["tokens"].tolist() == [10, 20]
    assert found.steps["gradient_norm"][0] == 0.5
    assert math.isnan(found.steps["gradient_norm"][1])
    assert "batch" not in found.steps
    low, high = found.evaluations["bits_per_byte_ci95_low"], found.evaluations["bits_per_byte_ci95_high"]
    assert (found.evaluations["bits_per_byte"].item(), low.item(), high.item()) == (2.5, 2.25, 2.75)
    assert found.notes == ()
    assert found.last_step == 2


def test_tables_are_flat_and_batches_have_their_digests(tmp_path):
    lines = [line(1, signals={"update_ratio": {"blocks.0.mlp": 0.5}}, alarms=["loss-spike"])]
    lines.append(json.dumps({"step": 1, "held_out_bits_per_byte": 2.5, "held_out_sources": {"a": 2.0}}))
    found = read_history(written(tmp_path / "run", lines))
    assert found.steps["signals/update_ratio/blocks.0.mlp"].tolist() == [0.5]
    assert found.evaluations["sources/a"].tolist() == [2.0]
    assert found.batches == {1: "c0ffee"}


def test_a_step_that_was_logged_again_is_told_where_its_numbers_differ(tmp_path):
    lines = [line(1, x=1.0), line(2, x=1.0, seconds=1.0), line(2, x=1.0, seconds=2.0), line(1, x=1.5)]
    found = read_history(written(tmp_path / "run", lines))
    assert found.twice == (1,)
    assert found.steps["x"].tolist() == [1.5, 1.0]


def test_a_run_without_metrics_has_no_curves(tmp_path):
    found = read_history(tmp_path)
    assert found.last_step == 0
    assert not len(found.evaluations["step"])
    assert "no metrics.jsonl" in found.notes[0]


@settings(deadline=None, derandomize=True, max_examples=50)
@given(num=st.integers(1, 12), cut=st.integers(1, 20), garbage=st.sets(st.integers(0, 11)))
def test_torn_and_damaged_lines_cost_only_themselves(tmp_path_factory, num, cut, garbage):
    lines = [line(step) for step in range(1, num + 1)]
    broken = [one[: len(one) // 2] if place in garbage else one for place, one in enumerate(lines)]
    folder = written(tmp_path_factory.mktemp("torn") / "run", broken)
    data = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(data[:-cut])  # as a crash leaves the end of a file
    found = read_history(folder)
    whole = []
    for data in (folder / "metrics.jsonl").read_bytes().splitlines():
        try:
            whole.append(json.loads(data)["step"])
        except ValueError:
            continue
    assert found.steps["step"].tolist() == whole
    lost = (folder / "metrics.jsonl").read_bytes().splitlines()
    assert any("cannot be read" in note for note in found.notes) == (len(lost) > len(whole))
    is_gapless = not whole or whole == list(range(whole[0], whole[-1] + 1))
    assert any("missing" in note for note in found.notes) == (not is_gapless)


def test_a_step_that_was_made_again_counts_once(tmp_path):
    found = read_history(written(tmp_path / "run", [line(1), line(2), line(2, gradient_norm=3.0)]))
    assert found.steps["step"].tolist() == [1, 2]
    assert found.steps["gradient_norm"][1] == 3.0
