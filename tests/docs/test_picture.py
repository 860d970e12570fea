"""The picture of a run is drawn from a real terminal, so a run must look right on one."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.test_docs import ROOT, SMALL

SCRIPT = ROOT / "docs" / "picture.py"


@pytest.fixture(scope="module")
def picture():
    spec = importlib.util.spec_from_file_location("picture", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_was_erased_or_written_over_is_gone(picture):
    assert picture.screen("one\r\ntwo\r\n") == ["one", "two", ""]
    assert picture.screen("10 %\r\x1b[2K50 %\r\x1b[2K\x1b[32mdone\x1b[0m\r\nnext") == ["\x1b[32mdone\x1b[0m", "next"]
    assert picture.screen("a\r\nb\x1b[1A\r\x1b[2Kc") == ["c", "b"]
    assert picture.screen("\x1b[?25lbar\x1b[?25h") == ["bar"]


def test_a_drawing_is_svg_that_asks_nobody_for_anything(picture):
    svg = picture.draw("thetahat", ["$ thetahat train", "\x1b[32mdone\x1b[0m <&>"])
    assert "done" in "".join(ElementTree.fromstring(svg).itertext())
    assert "https:" not in svg


def test_a_run_shows_its_progress_on_a_terminal(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    executable = Path(picture.sys.executable).with_name("thetahat")
    lines = picture.screen(picture.record([str(executable), "train", *SMALL], tmp_path))
    (bar,) = [line for line in lines if "4/4" in line]
    assert "log-likelihood" in bar
    assert "bits/byte" in bar
    assert [line for line in lines if "bits per byte after step 4" in line]
