"""Quiet: the result and errors, and nothing else."""

import ast
import sys
from pathlib import Path

import pytest

import thetahat
from thetahat.cli.main import main

SMALL = ["model.num_layers=1", "model.width=16", "model.num_heads=1", "model.num_kv_heads=1", "model.head_width=16",
         "model.inner_width=16", "data.context=32", "data.vocab_size=300", "batch_size=2", "threads=1",
         "max_steps=1"]  # fmt: skip


def run(monkeypatch, capfd, *words):
    monkeypatch.setattr(sys, "argv", ["thetahat", *words])
    main()
    return capfd.readouterr()


def test_a_quiet_command_writes_nothing_but_its_result(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text('{"text": "the sea and the ship"}\n' * 40)
    (tmp_path / "texts" / "left out.md").write_text("the sea")
    words = ["texts", "data.held_out=none", *SMALL]
    said = run(monkeypatch, capfd, "train", *words, "--out", "loud")
    assert "duplicates: 39 of 40 records" in said.err  # a check before the first step
    assert run(monkeypatch, capfd, "train", *words, "--out", "run", "--quiet") == ("", "")
    for command in (["score", "run", "texts"], ["explain", *words], ["runs", "."], ["info", "run"]):
        found = run(monkeypatch, capfd, *command, "-q")
        assert found.out
        assert found.err == ""
    with pytest.raises(SystemExit):
        run(monkeypatch, capfd, "score", "run", "nowhere.txt", "-q")
    assert capfd.readouterr().err.startswith("thetahat: no such file or folder: nowhere.txt")


def test_every_command_that_may_be_quiet_tells_the_library():
    for path in (Path(thetahat.__file__).parent / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_command = isinstance(node, ast.FunctionDef) and any(
                isinstance(default, ast.Name) and default.id == "Quiet" for default in node.args.defaults
            )
            if is_command:
                assert "listen_to_library(quiet=quiet" in ast.unparse(node), f"{path.name}: {node.name}"
