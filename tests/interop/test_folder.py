"""Folders of models: written and read back bit for bit, or refused with one clear message."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from tests.interop.conftest import AROUND, SMALL, lively
from thetahat.core.errors import DiskFullError, FolderError, ModelError
from thetahat.data.tokens.roles import Roles
from thetahat.interop.folder import is_hub_folder, load_folder, open_folder
from thetahat.interop.write import WriteConfig, write_folder
from thetahat.model.build import build_model
from thetahat.model.init import allocate


def loaded(path):
    folder = open_folder(path)
    model = build_model(folder.config, folder.vocab_size)
    allocate(model, dtype=torch.float32)
    load_folder(model, folder)
    return model


def are_equal(one, other):
    ours, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def edited(path, **fields):
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, **fields}))


def test_a_model_comes_back_bit_for_bit_with_what_lies_around_it(folder, small):
    opened = open_folder(folder)
    assert (opened.family, opened.config, opened.vocab_size, opened.context) == ("qwen3", SMALL, 11, 64)
    assert opened.dtype == torch.float32
    assert opened.roles == Roles(bos=3, eos=(3, 2))
    assert opened.chat_template == AROUND.templates["default"]
    assert opened.around.templates == AROUND.templates
    assert opened.tokenizer.read_text() == AROUND.tokenizer
    assert are_equal(loaded(folder), small)
    assert is_hub_folder(folder)
    assert not is_hub_folder(folder.parent)


def test_config_json_says_everything_to_old_readers_and_new(folder):
    plain = json.loads((folder / "config.json").read_text())
    assert plain["torch_dtype"] == plain["dtype"] == "float32"
    assert plain["rope_theta"] == plain["rope_parameters"]["rope_theta"] == 5e4
    assert plain["eos_token_id"] == [3, 2]
    assert plain["pad_token_id"] is None
    assert plain["vocab_size"] == 11
    assert plain["max_position_embeddings"] == 64
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["eos_token"] == tokenizer["bos_token"] == "<|endoftext|>"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [3, 2]


def test_shards_are_listed_with_their_total_size_and_read_as_one(tmp_path, small):
    write_folder(tmp_path / "model", dict(small.named_parameters()), SMALL, AROUND, how=WriteConfig(shard_bytes=4000))
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 2
    assert set(index["weight_map"].values()) == {file.name for file in files}
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert all(sum(tensor.nbytes for tensor in load_file(file).values()) <= 4000 for file in files)
    assert are_equal(loaded(tmp_path / "model"), small)


def test_an_index_without_its_total_size_is_read(tmp_path, small):
    write_folder(tmp_path / "model", dict(small.named_parameters()), SMALL, AROUND, how=WriteConfig(shard_bytes=4000))
    edited(tmp_path / "model" / "model.safetensors.index.json", metadata={})
    assert are_equal(loaded(tmp_path / "model"), small)


def test_the_dtype_of_a_file_is_known_and_kept(tmp_path):
    half = lively(SMALL, 11, torch.bfloat16)
    write_folder(tmp_path / "half", dict(half.named_parameters()), SMALL, AROUND)
    assert open_folder(tmp_path / "half").dtype == torch.bfloat16
    whole = loaded(tmp_path / "half")  # bfloat16 fits into float32
    write_folder(tmp_path / "back", dict(whole.named_parameters()), SMALL, AROUND, how=WriteConfig(dtype="bfloat16"))
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "back"))
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    mixed = {name: tensor.float() if "norm" in name else tensor for name, tensor in ours.items()}
    save_file(mixed, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    assert open_folder(tmp_path / "half").dtype == torch.float32


def test_eos_of_the_generation_config_comes_before_that_of_the_config(folder):
    edited(folder / "config.json", eos_token_id=1)
    assert open_folder(folder).roles.eos == (3, 2)
    (folder / "generation_config.json").unlink()
    assert open_folder(folder).roles.eos == (1,)


def test_a_template_of_its_own_file_comes_before_that_of_the_tokenizers_config(folder):
    listed = [{"name": "default", "template": "old"}, {"name": "rag", "template": "rag"}]
    edited(folder / "tokenizer_config.json", chat_template=listed)
    assert open_folder(folder).chat_template == AROUND.templates["default"]
    (folder / "chat_template.jinja").unlink()
    assert open_folder(folder).chat_template == "old"
    edited(folder / "tokenizer_config.json", chat_template="one")
    assert open_folder(folder).chat_template == "one"


def test_a_folder_of_the_hubs_cache_is_read_through_its_links(folder, tmp_path, small):
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "1a2b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(path for path in folder.iterdir() if path.is_file()):
        shutil.copy(file, blobs / f"{number}")
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / f"{number}", snapshot))
    assert are_equal(loaded(snapshot), small)


def test_nothing_is_written_over_or_half_written(folder, tmp_path, small, monkeypatch):
    with pytest.raises(FolderError):
        write_folder(folder, dict(small.named_parameters()), SMALL, AROUND)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("thetahat.interop.write.write_file", full)
    with pytest.raises(DiskFullError):
        write_folder(tmp_path / "other", dict(small.named_parameters()), SMALL, AROUND)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


LOAD = """
import sys, torch
from pathlib import Path
from thetahat.interop.folder import load_folder, open_folder
from thetahat.model.build import build_model
from thetahat.model.init import allocate
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
folder, before = open_folder(Path(sys.argv[1])), peak()
model = build_model(folder.config, folder.vocab_size)
allocate(model, dtype=getattr(torch, sys.argv[2]))
load_folder(model, folder)
print((peak() - before) / sum(parameter.nbytes for parameter in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("shard_bytes", [10**9, 10**8])
def test_loading_holds_little_beside_the_model(tmp_path, dtype, shard_bytes):
    """A model of 400 MiB in bfloat16, of which the table of tokens is a third."""
    config = replace(SMALL, num_layers=4, width=1024, num_heads=16, num_kv_heads=16, head_width=64, inner_width=4096)
    config = replace(config, ties_embeddings=True)
    model = build_model(config, 128 * 1024)
    allocate(model, dtype=torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.fill_(0.5)
    write_folder(
        tmp_path / "model", dict(model.named_parameters()), config, AROUND, how=WriteConfig(shard_bytes=shard_bytes)
    )
    command = [sys.executable, "-c", LOAD, str(tmp_path / "model"), dtype]
    assert float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 1.2


# --- what is refused ------------------------------------------------------------------------------------------------


def changed(change):
    def apply(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


NORM, INDEX = "model.norm.weight", "model.safetensors.index.json"


def index(folder, where):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    named = json.dumps({"weight_map": dict.fromkeys(tensors, where)})
    (folder / "model.safetensors.index.json").write_text(named)


def twice(folder):
    tensors = load_file(folder / "model.safetensors")
    index(folder, "a.safetensors")
    save_file({NORM: tensors[NORM]}, folder / "b.safetensors")
    edited(folder / INDEX, weight_map={**dict.fromkeys(tensors, "a.safetensors"), NORM: "b.safetensors"})


def link(folder):
    outside = folder.parent / "elsewhere.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)


def only(name):
    def apply(folder):
        (folder / "model.safetensors").rename(folder / name)

    return apply


def adapter(folder):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/model", "peft_type": "LORA"}')


def more_ids(folder):
    text = (folder / "tokenizer.json").read_text().replace('"id": 3', '"id": 11')
    (folder / "tokenizer.json").write_text(text)


def described(**fields):
    return lambda folder: edited(folder / "config.json", **fields)


REFUSED = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "a config that is not JSON": (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
    "a missing tensor": (changed(lambda tensors: tensors.pop(NORM)), r"lacks model.norm.weight \[16\], which"),
    "an extra tensor": (
        changed(lambda tensors: tensors.update(extra=torch.ones(2, 3))),
        r"has extra \[2, 3\], which a Qwen3ForCausalLM",
    ),
    "a misshapen tensor": (
        changed(lambda tensors: tensors.update({NORM: torch.ones(15)})),
        r"model.norm.weight in .* is \[15\], where config.json asks for \[16\]",
    ),
    "a quantized tensor": (
        changed(lambda tensors: tensors.update({NORM: torch.ones(16, dtype=torch.int8)})),
        "of the type I8, and quantized",
    ),
    "a truncated file": (cut, "is no whole file of tensors"),
    "an index of a file that is not there": (lambda folder: index(folder, "b.safetensors"), "has no such file"),
    "an index of a path above the folder": (lambda folder: index(folder, "../a.safetensors"), "not a file of"),
    "an index of an absolute path": (lambda folder: index(folder, "/etc/passwd"), "not a file of"),
    "an index without a map": (
        lambda folder: (index(folder, "a.safetensors"), edited(folder / "model.safetensors.index.json", weight_map={})),
        "has no weight_map",
    ),
    "an index that lies": (
        lambda folder: (index(folder, "a.safetensors"), changed_index(folder)),
        "says that other.weight is in a.safetensors",
    ),
    "a tensor in two shards": (twice, r"model\.norm\.weight is in .*a.safetensors and in .*b.safetensors"),
    "two names of one tensor": (
        changed(lambda tensors: tensors.update({"model.norm.gamma": tensors[NORM].clone()})),
        "has model.norm.(gamma|weight) and model.norm.(gamma|weight), which are two names",
    ),
    "more layers than tensors": (described(num_hidden_layers=999, layer_types=None), "asks for 999 layers"),
    "layers beyond all measure": (described(num_hidden_layers=10**5, layer_types=None), "num_hidden_layers=100000"),
    "a size beyond all measure": (described(hidden_size=2**20), "hidden_size=1048576 is not supported"),
    "a template that is no text": (
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff"),
        "is not text in UTF-8",
    ),
    "a tokenizer that is none": (
        lambda folder: (folder / "tokenizer.json").write_text('{"added_tokens": [{"content": "a"}]}'),
        "describes no tokenizer",
    ),
    "a link to a file outside": (link, "is a link to"),
    "a tokenizer larger than the embedding": (more_ids, "has ids up to 11, and the embedding has 11 rows"),
    "code of its own": (described(auto_map={"AutoModel": "modeling_x.XModel"}), "Python code of its own"),
    "a quantized folder": (described(quantization_config={"quant_method": "gptq"}), r"is quantized \(gptq\)"),
    "a model that sees": (described(vision_config={"hidden_size": 8}, text_config={}), "reads more than text"),
    "a pickle": (only("pytorch_model.bin"), "in pytorch_model.bin only, a pickle"),
    "a file of llama.cpp": (only("model-q4.gguf"), "is a GGUF file"),
    "weights of another framework": (only("tf_model.h5"), "in tf_model.h5 only"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    "an adapter": (adapter, "is an adapter of somebody/model"),
    "a special token that is no id": (described(bos_token_id="<s>"), "bos_token_id='<s>'|is no id of a token"),
    "positions that are no number": (described(max_position_embeddings="many"), "max_position_embeddings='many'"),
    "no size of the vocabulary": (described(vocab_size=None), "vocab_size=None"),
}


def changed_index(folder):
    path = folder / "model.safetensors.index.json"
    named = json.loads(path.read_text())["weight_map"]
    edited(path, weight_map={**named, "other.weight": "a.safetensors"})


@pytest.mark.parametrize(("spoil", "said"), REFUSED.values(), ids=REFUSED)
def test_a_folder_that_cannot_be_read_is_refused_with_one_message(folder, spoil, said):
    (folder / "generation_config.json").unlink()
    spoil(folder)
    with pytest.raises(ModelError, match=said) as caught:
        open_folder(folder)
    assert caught.value.exit_code == 4


def test_a_gguf_file_is_refused_by_its_name(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="is a GGUF file"):
        open_folder(tmp_path / "model.gguf")


def test_a_tied_head_with_values_of_its_own_is_refused_and_a_copy_is_not(tmp_path):
    tied = replace(SMALL, ties_embeddings=True)
    write_folder(tmp_path / "model", dict(lively(tied, 11).named_parameters()), tied, AROUND)
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    assert "lm_head.weight" not in tensors
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, weights)
    assert open_folder(tmp_path / "model").config.ties_embeddings
    save_file({**tensors, "lm_head.weight": torch.ones(11, 16)}, weights)
    with pytest.raises(ModelError, match=r"lm_head\.weight with other values") as caught:
        open_folder(tmp_path / "model")
    assert '"tie_word_embeddings": false' in caught.value.cure
