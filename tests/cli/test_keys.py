import json

import pytest

from thetahat.cli.main import main


def told(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["thetahat", "keys", *words])
    main()
    return capsys.readouterr()


def test_without_a_prefix_the_first_level_is_shown_and_what_to_type(monkeypatch, capsys):
    out, err = told(monkeypatch, capsys)
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines][:3] == ["recipe=...", "seed=0", "device=auto"]
    assert next(line for line in lines if line.startswith("data.")).startswith("data.*  What to train on")
    assert "Next: thetahat keys data" in err


def test_a_line_in_a_pipe_has_default_meaning_allowed_and_chapter(monkeypatch, capsys):
    (line,) = told(monkeypatch, capsys, "data.context").out.splitlines()
    assert line.split("  ") == [
        "data.context=1024",
        "Positions that the model reads at once: the context length.",
        "Allowed: an integer >= 2 and <= 4194304.",
        "See docs/08-data.md#a-context-that-fits.",
    ]


def test_a_name_of_another_trainer_is_answered_with_ours(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        told(monkeypatch, capsys, "grad_clip")
    assert "try: optimization.clip=..." in capsys.readouterr().err


def test_values_of_a_recipe_stand_in_place_of_defaults(monkeypatch, capsys):
    (line,) = told(monkeypatch, capsys, "data.context", "--of", "quickstart").out.splitlines()
    assert line.startswith("data.context=256  ")
    (found,) = json.loads(told(monkeypatch, capsys, "data.context", "--of", "quickstart", "--json").out)["keys"]
    assert (found["default"], found["value"]) == ("1024", 256)


def test_as_json_every_key_is_there(monkeypatch, capsys):
    found = json.loads(told(monkeypatch, capsys, "--json").out)["keys"]
    assert "model.layers[].positions.scaling.factor" in {key["key"] for key in found}
    assert {"key", "default", "allowed", "meaning", "where", "chapter"} <= set(found[0])
