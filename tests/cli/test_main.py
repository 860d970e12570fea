"""What the world outside does to a command: closed pipes, odd paths, poor terminals; each ends with its own code."""

import errno
import io
import json
import os
import subprocess
import sys

import pytest

from thetahat.cli.main import main
from thetahat.cli.words import escape, find_config, split_words
from thetahat.core.errors import ModelError


def ended(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["thetahat", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize(
    ("words", "code", "kind", "message"),
    [
        (["score", "nowhere", "--json"], 4, "ModelError", "nowhere"),
        (["train", "--json", "batch_size=none"], 2, "ConfigError", "batch_size"),
        (["compare", "one.parquet", "--json"], 2, "ConfigError", "1 of A and B"),
        (["score", "--json", "--no-such-option"], 2, "ConfigError", "--no-such-option"),
        (["select", "--json", "--quiet"], 2, "ConfigError", ""),
    ],
)
def test_with_json_an_error_is_an_object_on_stdout_and_words_on_stderr(monkeypatch, capsys, words, code, kind, message):
    assert ended(monkeypatch, *words) == code
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    error = json.loads(line)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert message in error["message"]
    assert err


@pytest.mark.parametrize(
    ("words", "message", "cure"),
    [
        (["train", "--no-such-option"], "no such option: --no-such-option", "thetahat train --help"),
        (["score"], "missing argument 'MODEL", "thetahat score --help"),
        (["compare", "a", "b", "--top", "some"], "invalid value for '--top'", "thetahat compare --help"),
        (["tokenizer", "train"], "missing argument 'DATA", "thetahat tokenizer train --help"),
        (["trian"], "no such command 'trian'", "thetahat train"),
        (["compare", "runs/mine"], "1 of A and B came", "thetahat compare runs/mine OTHER"),
    ],
)
def test_a_command_that_does_not_fit_is_an_error_like_all_others(monkeypatch, capsys, words, message, cure):
    for json_too in ([], ["--json"]):
        assert ended(monkeypatch, *words, *json_too) == 2
        out, err = capsys.readouterr()
        assert err.startswith(f"thetahat: {message}")
        assert err.endswith(f"  try: {cure}\n")
        assert bool(out) == bool(json_too)


def test_without_a_command_the_help_is_shown(monkeypatch, capsys):
    assert ended(monkeypatch) == 2
    said = "".join(capsys.readouterr())
    assert "Usage: thetahat" in said
    assert "try:" not in said


def test_without_json_an_error_leaves_stdout_empty(monkeypatch, capsys):
    assert ended(monkeypatch, "score", "nowhere") == 4
    assert capsys.readouterr().out == ""


def test_a_reader_that_goes_away_ends_the_command_with_the_code_of_shells(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "thetahat", "recipes"]
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError(errno.EACCES, "Permission denied", "/data/bank.txt"), "/data/bank.txt: Permission denied"),
        (OSError("Unexpected end of stream"), "Unexpected end of stream"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset by peer"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_the_system_refuses_is_no_bug_of_ours(monkeypatch, capsys, error, said):
    def refused(**options):
        raise error

    monkeypatch.setattr("thetahat.cli.main.app", refused)
    assert ended(monkeypatch, "recipes") == 7
    err = capsys.readouterr().err
    assert said in err
    assert "bug" not in err
    assert "try: " in err


def test_characters_that_would_be_obeyed_are_shown_by_their_full_number():
    shown = {
        "\x1b[31m": r"\x1b[31m",
        "\u202egpj": r"\u202egpj",
        "\u200b": r"\u200b",
        "\U000e0041": r"\U000e0041",
        "猫\n": "猫\n",
    }
    assert {text: escape(text) for text in shown} == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_knows_few_characters_shows_the_others_escaped(monkeypatch, encoding):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert ended(monkeypatch, "compare", "θ̂", "--json") == 2
    terminal.flush()
    assert "A and B came" in terminal.buffer.getvalue().decode(encoding)


def test_a_path_with_an_equals_sign_is_a_path_where_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["runs/x", "lang=de/part.txt", "seed=1", "lr=0.1", "data.train=a=b.txt"]
    assert split_words(words) == (["runs/x"], ["lang=de/part.txt", "seed=1", "lr=0.1", "data.train=a=b.txt"])
    for folder in ("lang=de", "seed=1", "lr=0.1"):
        (tmp_path / folder).mkdir()
    (tmp_path / "lang=de" / "part.txt").write_text("text")
    assert split_words(words) == (["runs/x", "lang=de/part.txt", "lr=0.1"], ["seed=1", "data.train=a=b.txt"])


def test_a_key_with_a_hyphen_is_a_key():
    """Alarms and sources have such names."""
    pairs = ["diagnosis.policies.bad-batch=skip", "data.sources.my-wiki.path=wiki"]
    assert split_words(["quickstart", *pairs]) == (["quickstart"], pairs)
    assert find_config(["quickstart", pairs[0]]).diagnosis.policies == {"bad-batch": "skip"}
    assert split_words(["-x=1"]) == (["-x=1"], [])


@pytest.mark.parametrize(
    ("words", "code", "message", "cure"),
    [
        (["train", "runs/mine/confg.toml"], 2, "there is no file runs/mine/confg.toml", "runs/mine/config.toml"),
        (["train", "elsewhere/config.toml"], 2, "there is no file", "runs/mine/config.toml"),
        (["explain", "lr=0.1"], 2, "unknown config key 'lr'", "optimization.matrices.learning_rate=0.1"),
        (["train", "broken.toml"], 2, "broken.toml is not TOML", ""),
    ],
)
def test_a_config_that_is_not_one_is_named_with_what_to_type(tmp_path, monkeypatch, capsys, words, code, message, cure):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.toml").write_text("seed = 1")
    for name in ("essay", "broken.toml"):
        (tmp_path / name).write_text("once upon a time")
    assert ended(monkeypatch, *words, "--json") == code
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert message in error["message"]
    assert cure in (error["cure"] or "")


def test_a_folder_with_the_name_of_a_recipe_does_not_stand_in_for_it(tmp_path, monkeypatch):
    """As after `thetahat train masked --out masked`: the same command means the same recipe."""
    monkeypatch.chdir(tmp_path)
    recipe = find_config(["masked"])
    (tmp_path / "masked").mkdir()
    assert find_config(["masked"]) == recipe
    with pytest.raises(ModelError, match="masked is not a model"):
        find_config(["./masked"])
