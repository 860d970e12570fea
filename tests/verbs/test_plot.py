"""The curves of runs as pictures: in a terminal, and as files."""

import json
from xml.etree import ElementTree

import pytest

from thetahat.core.errors import ConfigError, ModelError
from thetahat.verbs.plot import plot


def written(folder, num_steps=40):
    folder.mkdir()
    lines = []
    for step in range(1, num_steps + 1):
        numbers = {"log_likelihood_per_token": -6 + step / 10, "gradient_norm": 1.0, "tokens_per_second": 100.0}
        line = {"step": step, "tokens": 10 * step, "learning_rate_factor": 1.0, "seconds": float(step), **numbers}
        lines.append(json.dumps(line))
        if step % 10 == 0:
            held_out = {"held_out_nats_per_token": 6 - step / 10, "held_out_bits_per_byte": 3 - step / 20}
            lines.append(json.dumps({"step": step, "seconds": float(step), **held_out}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_plot_is_text_as_wide_as_the_terminal_without_colours_in_a_pipe(tmp_path):
    text = plot(written(tmp_path / "run"), y=["loss", "bits"]).text(70)
    assert "training" in text
    assert "held out" in text
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 70


def test_evaluations_of_runs_are_told_apart_without_colours_and_many_names_go_into_several_lines(tmp_path):
    runs = [written(tmp_path / f"a-run-with-a-long-name-{number}") for number in range(3)]
    lines = plot(*runs).text(70).splitlines()
    names = [name for line in lines[1:7] for name in line.split("  ") if "held out" in name]
    assert [name[0] for name in names] == ["●", "■", "▲"]
    assert max(map(len, lines)) <= 70
    coloured = plot(*runs).text(70, has_colours=True).splitlines()
    assert len(coloured) == len(lines)


def test_a_picture_is_the_same_bytes_each_time(tmp_path):
    run = written(tmp_path / "run")
    for name in ("one.svg", "two.svg"):
        plot(run).save(tmp_path / name)
    data = (tmp_path / "one.svg").read_bytes()
    assert data == (tmp_path / "two.svg").read_bytes()
    assert ElementTree.fromstring(data).tag.endswith("svg")
    plot(run, written(tmp_path / "other"), y=["bits"], x="minutes").save(tmp_path / "two.png")
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused(tmp_path):
    run = written(tmp_path / "run")
    with pytest.raises(ConfigError, match="nothing that is drawn"):
        plot(run, y=["accuracy"])
    with pytest.raises(ConfigError, match="no picture"):
        plot(run).save(tmp_path / "plot.gif")
    with pytest.raises(ModelError, match="no run folder"):
        plot(tmp_path)
