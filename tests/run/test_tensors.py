"""Tensors of a kind in one file, or in several where they are many bytes; readers read either."""

import itertools
import shutil
import weakref

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

from thetahat.core import store
from thetahat.core.errors import DamagedError, ModelError
from thetahat.interop.made import Made
from thetahat.run.folder import tensors as stored
from thetahat.run.folder.files import MODEL, FilesOf, digest_of, is_there, kind_of, paths_of
from thetahat.run.folder.tensors import cut, load_tensors, write_tensors


def some(seed=0):
    torch.manual_seed(seed)
    shapes = {"b.weight": (7, 5), "a.weight": (3, 11), "b.bias": (5,), "step": (), "c": (40, 5)}
    found = {name: torch.randn(shape) for name, shape in shapes.items()}
    return found | {"half": torch.randn(4, 3).bfloat16(), "turned": torch.randn(6, 4).T}


def published(folder, tensors, kind=MODEL):
    with store.publishing(folder) as partial:
        write_tensors({kind: tensors}, partial)
    return folder


@given(st.dictionaries(st.text("abc", max_size=3), st.integers(0, 30)), st.integers(1, 60), st.randoms())
def test_a_cut_is_of_names_and_sizes_alone(sizes, largest, chance):
    files = cut(sizes, largest)
    assert [name for names in files for name in names] == sorted(sizes)
    assert all(sum(sizes[name] for name in names) <= largest or len(names) == 1 for names in files)
    for names, following in itertools.pairwise(files):  # none could have taken another one
        assert sum(sizes[name] for name in names) + sizes[following[0]] > largest
    shuffled = list(sizes)
    chance.shuffle(shuffled)
    assert cut({name: sizes[name] for name in shuffled}, largest) == files


def test_what_fits_has_the_name_and_the_bytes_that_it_always_had(tmp_path):
    tensors = some()
    entries = write_tensors({MODEL: tensors}, tmp_path)
    save_file({name: one.contiguous() for name, one in tensors.items()}, tmp_path / "plain")
    assert list(entries) == [MODEL]
    assert (tmp_path / MODEL).read_bytes() == (tmp_path / "plain").read_bytes()
    assert entries[MODEL]["sha256"] == store.digest_file(tmp_path / "plain")


def test_what_does_not_fit_is_in_several_files_and_read_as_one(tmp_path, monkeypatch):
    tensors = some()
    one = published(tmp_path / "one", tensors)
    monkeypatch.setattr(stored, "LARGEST", 200)
    many = published(tmp_path / "many", tensors)
    names = sorted(path.name for path in many.glob("*.safetensors"))
    assert len(names) == 4
    assert names[1] == "model-00002-of-00004.safetensors"
    assert {kind_of(name) for name in names} == {MODEL}
    store.verify(many)
    for folder in (one, many):
        found = load_tensors(folder / MODEL)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert [path.name for path in paths_of(many / MODEL)] == names
    assert digest_of(one, MODEL) == store.digest_in(one, MODEL) != digest_of(many, MODEL)
    changed = published(tmp_path / "changed", tensors | {"step": torch.tensor(1.0)})
    assert digest_of(changed, MODEL) != digest_of(many, MODEL)
    assert names[0] in FilesOf((MODEL,))
    assert "optimizer-00001-of-00002.safetensors" not in FilesOf((MODEL,))


def test_files_of_others_beside_it_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "LARGEST", 200)
    folder = published(tmp_path / "many", some())
    shutil.copy(folder / "model-00001-of-00004.safetensors", folder / "model-00009-of-00009.safetensors")
    assert load_tensors(folder / MODEL).keys() == some().keys()


def test_one_of_several_files_that_is_gone_is_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "LARGEST", 200)
    folder = published(tmp_path / "many", some())
    (folder / "model-00003-of-00004.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"00003-of-00004\.safetensors is missing"):
        store.verify(folder)
    with pytest.raises(ModelError, match=r"00003-of-00004\.safetensors cannot be read"):
        load_tensors(folder / MODEL)


def test_what_is_not_there_is_said(tmp_path):
    assert not is_there(tmp_path / MODEL)
    with pytest.raises(ModelError, match="it is not there"):
        load_tensors(tmp_path / MODEL)


@pytest.mark.parametrize("largest", [4000, 2**31])
def test_tensors_that_are_made_are_made_one_at_a_time(tmp_path, monkeypatch, largest):
    """Each is asked for when it is written, and what was written before it is let go, in one file or in many."""
    monkeypatch.setattr(stored, "LARGEST", largest)
    held = []

    def make(name):
        tensor = torch.full((1000,), float(name))
        held.append(weakref.ref(tensor))
        alive.append(sum(one() is not None for one in held))
        return tensor

    alive = []
    names = [f"{number}" for number in range(8)]
    makes = {name: lambda name=name: make(name) for name in names}
    folder = published(tmp_path / "made", Made(makes, dict.fromkeys(names, torch.empty(1000, device="meta"))))
    assert set(alive) == {1}
    assert len(list(folder.glob("*.safetensors"))) == (8 if largest == 4000 else 1)
    assert float(load_file(sorted(folder.glob("*.safetensors"))[-1])["7"][0]) == 7.0
