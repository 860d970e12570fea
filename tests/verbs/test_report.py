"""The page of a run: whole, safe whatever stands in the run, and right in a real browser."""

import json
import re
import shutil
from pathlib import Path

import pytest

import thetahat as th
from tests.browser import models, opened
from thetahat.core.errors import ConfigError, ModelError
from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.ledger.run_ledger import read_run_ledger

HOSTILE = "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=1> \u202eevil @x $y {z} \x1b[31m"
SMALL = ["model.width=16", "model.num_layers=1", "model.num_heads=1", "model.num_kv_heads=1", "model.head_width=16",
         "model.inner_width=32", "data.context=32", "data.vocab_size=300", "batch_size=4", "max_steps=6", "threads=1",
         "evaluation.every=2", "data.train=texts.jsonl", "data.held_out=hash:0.3", "prompt="]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("THETAHAT_CACHE", str(folder / "cache"))
        lines = [
            {"text": f"{number} words of a text " * 3, "id": f"{HOSTILE}{number}", "source": f"{HOSTILE}{number % 2}"}
            for number in range(40)
        ]
        Path("texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        for _ in th.train(th.override(th.find_recipe("quickstart"), SMALL), folder / "run"):
            pass
        return folder / "run"


@pytest.fixture(scope="module")
def page(run):
    return th.report(run).path


def test_the_page_loads_nothing_and_is_small(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 5 * 2**20
    assert re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=", text) == []
    assert "default-src 'none'" in text
    assert re.search(r"What it says of itself</h2>\s*<section>\s*<p>Nothing wrong found", text)


def test_alarms_updates_and_samples_are_drawn_and_fit_on_a_phone(browser, run, tmp_path):
    told = shutil.copytree(run, tmp_path / "told")
    alarms = [Alarm("bad-batch", "warning", step, HOSTILE, {}) for step in (2, 3, 5)]
    alarms += [Alarm("loss-spike", "critical", 3, "it rose", {})]
    (told / "alarms.jsonl").write_text("".join(json.dumps(alarm.to_dict()) + "\n" for alarm in alarms))
    lines = [line | {"signals": {"update_ratio": {"a": 0.1, "b": 0.0, "c": 0.3}}} for line in logged(run)]
    (told / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sample = {"step": 2, "prompt": "a prompt", "text": "\nwords " * 40, "num_tokens": 9}
    (told / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    page, said = th.report(told).path, []
    view = opened(browser, page, said, viewport={"width": 390, "height": 844})
    assert view.evaluate("Bokeh.documents[0].roots().length") == 9
    assert view.evaluate("document.documentElement.scrollWidth") == 390
    every = "[...Bokeh.documents[0]._all_models.values()]"
    names = view.evaluate(f"{every}.flatMap(m => [...(m.major_label_overrides || [])].map(pair => pair[1]))")
    assert [name for name in names if "-" in name] == ["bad-batch (3)", "loss-spike"]
    strokes = view.evaluate(f"{every}.map(m => m.data).filter(d => d && d.said).map(d => [...d.x])")
    assert strokes == [[2, 3, 5], [3]]
    view.click("[data-axis=targets]")
    assert "0.2" in view.locator("section", has_text="Size of updates").locator("table").text_content()
    assert view.evaluate("getComputedStyle(document.querySelector('.texts td')).textAlign") == "left"
    assert view.evaluate("window.hacked") is None
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_every_figure_and_nothing_in_the_data_acts(browser, page, scheme):
    said = []
    view = opened(browser, page, said, color_scheme=scheme, viewport={"width": 1100, "height": 800})
    drawn = view.evaluate("Bokeh.documents[0].roots().length")
    places = view.evaluate("document.querySelectorAll('[data-root-id]').length")
    assert drawn == places == 7  # five curves, lengths and sources
    assert view.evaluate("window.hacked") is None
    assert said == []
    grid = view.evaluate(
        "Array.from(Bokeh.documents[0]._all_models.values()).find(m => m.type == 'Grid').grid_line_color"
    )
    assert grid == {"light": "#dde2e8", "dark": "#333c47"}[scheme]
    assert "\\u202eevil" in view.inner_text("main")


def test_the_axis_can_be_chosen_and_zooming_is_shared(browser, page):
    said = []
    view = opened(browser, page, said)
    view.click("[data-axis=targets]")
    targets = [line["tokens"] for line in logged(page.parent) if "tokens_per_second" in line]
    ends = models(view, "Range1d", "end")
    assert [end for end in ends if end > 10] == [pytest.approx(1.015 * targets[-1])]
    assert view.get_attribute("[data-axis=targets]", "aria-pressed") == "true"
    assert view.get_attribute("[data-axis=step]", "aria-pressed") == "false"
    view.emulate_media(color_scheme="dark")
    view.wait_for_timeout(200)
    assert set(models(view, "Grid", "grid_line_color")) == {"#333c47"}
    assert said == []


def logged(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_tables_hold_the_numbers_of_the_figures(run, page):
    text = page.read_text(encoding="utf-8")
    for line in logged(run):
        if "held_out_bits_per_byte" in line:
            assert f"<td>{line['held_out_bits_per_byte']:,.4g}</td>" in text


def test_what_is_torn_or_gone_is_said_and_the_rest_is_used(run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "broken")
    data = (broken / "metrics.jsonl").read_bytes()
    (broken / "metrics.jsonl").write_bytes(data[: len(data) * 2 // 3])
    (broken / "environment.json").unlink()
    part = next((broken / "ledger").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-100])
    shutil.rmtree(broken / "checkpoints")
    written = th.report(broken)
    assert any("metrics.jsonl: line" in note for note in written.notes)
    assert any("environment.json" in note for note in written.notes)
    assert any(".parquet" in note for note in written.notes)
    assert "What could not be read" in written.path.read_text(encoding="utf-8")


def test_extremes_are_those_of_the_ledger(run, page):
    rows = [row for row in read_run_ledger(run).to_pylist() if row["step"] > 4.5]
    worst = max(rows, key=lambda row: -row["log_prob"] / row["num_tokens"])
    assert f"<td>{-worst['log_prob'] / worst['num_tokens']:.3f}</td>" in page.read_text(encoding="utf-8")


def test_several_runs_are_drawn_over_one_another(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    text = (other / "config.toml").read_text(encoding="utf-8")
    (other / "config.toml").write_text(text.replace("seed = 0", "seed = 7"), encoding="utf-8")
    page = th.report(run, other, out=tmp_path / "two.html").path.read_text(encoding="utf-8")
    assert "What the runs differ in" in page
    assert "<td>seed</td><td>0</td><td>7</td>" in page
    with pytest.raises(ConfigError, match="place of its own"):
        th.report(run, other)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no run folder"):
        th.report(tmp_path)


def test_a_run_that_only_began_has_a_page(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.toml").write_text("", encoding="utf-8")
    (tmp_path / "new" / "metrics.jsonl").write_text("", encoding="utf-8")
    assert "no step was logged" in th.report(tmp_path / "new").path.read_text(encoding="utf-8")
