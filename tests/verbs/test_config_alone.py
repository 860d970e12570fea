"""`thetahat info` and `thetahat cost` of a folder that has a config.json and no weights."""

import json
import sys

import pytest

from tests.interop.hub import CONFIGS
from thetahat.cli.main import main
from thetahat.core.errors import ModelError
from thetahat.verbs.info import info

SMALL = {
    **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16},
    **{"num_key_value_heads": 2, "moe_intermediate_size": 32, "num_experts_per_tok": 2, "vocab_size": 512},
}


def folder_of(tmp_path, **fields):
    (tmp_path / "config.json").write_text(json.dumps(fields))
    return str(tmp_path)


def said(*typed, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["thetahat", *typed])
    main()
    return capsys.readouterr()


def test_a_config_alone_says_how_many_parameters_a_token_is_computed_with(tmp_path):
    found = info(folder_of(tmp_path, **CONFIGS["mixtral-8x7b"]))
    assert (found.num_parameters, found.num_active) == (46_702_792_704, 12_879_925_248)
    assert (found.is_trained, found.family, found.lineage) == (False, "mixtral", ())


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "glm-4.5-air"])
def test_experts_that_are_not_chosen_are_not_active(tmp_path, name):
    number = next(field for field in ("num_experts", "n_routed_experts") if field in CONFIGS[name])
    found = info(folder_of(tmp_path, **CONFIGS[name] | SMALL | {number: 5}))
    layers = 3 - CONFIGS[name].get("first_k_dense_replace", 0)
    assert found.num_parameters - found.num_active == layers * 3 * 3 * 64 * 32  # three experts of three matrices


def test_what_it_costs_is_said_of_one_gpu_and_of_several(tmp_path, capsys, monkeypatch):
    folder = folder_of(tmp_path, **CONFIGS["glm-4.5-air"] | SMALL | {"n_routed_experts": 4})
    shown = said("cost", folder, "--on", "h100", "--gpus", "4", capsys=capsys, monkeypatch=monkeypatch)
    assert "189,768 parameters" in shown.out
    assert "165,192 active for each token" in " ".join(shown.out.split())
    over = ["--over", "data.context=64,128", "--json"]
    found = json.loads(
        said("cost", folder, "--on", "h100", *over, capsys=capsys, monkeypatch=monkeypatch).out.splitlines()[-1]
    )
    assert found["num_active"] == 165_192
    assert [one["context"] for one in found["points"]] == [64, 128]


def test_a_pickle_is_no_config_alone(tmp_path):
    folder = folder_of(tmp_path, **CONFIGS["mixtral-8x7b"])
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="a pickle"):
        info(folder)


def test_more_chosen_experts_than_there_are_is_refused(tmp_path):
    folder = folder_of(tmp_path, **CONFIGS["mixtral-8x7b"] | {"num_experts_per_tok": 9})
    with pytest.raises(ModelError, match="num_chosen=9 is more than num_experts=8"):
        info(folder)
