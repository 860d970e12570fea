"""Files of tensors, to the byte as the safetensors library writes them, from tensors that are made one by one."""

import weakref

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

from thetahat.interop.made import DTYPES, Made, metas, write_file

SHAPES = st.lists(st.integers(0, 3), max_size=3)
TENSORS = st.dictionaries(st.text(max_size=4), st.tuples(SHAPES, st.sampled_from([*DTYPES])), min_size=1, max_size=8)


@given(TENSORS, st.sampled_from([None, {"format": "pt"}]))
def test_a_file_has_the_bytes_of_the_library(tmp_path_factory, described, metadata):
    folder = tmp_path_factory.mktemp("files")
    tensors = {
        name: torch.arange(torch.Size(shape).numel() * 8, dtype=torch.uint8)
        .view(DTYPES[dtype] if dtype != "BOOL" else torch.uint8)[: torch.Size(shape).numel()]
        .reshape(shape)
        .to(DTYPES[dtype])
        for name, (shape, dtype) in described.items()
        if name != "__metadata__"
    }
    save_file(tensors, folder / "theirs", metadata)
    write_file(folder / "ours", tensors, metadata)
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()


def test_values_are_written_as_they_are_read_whatever_their_layout_in_memory(tmp_path):
    torch.manual_seed(0)
    whole = torch.randn(6, 4, 5)
    tensors = {"turned": whole[0].t(), "part": whole[1:3, :, 2], "one": torch.tensor(1.5), "none": whole[:0]}
    write_file(tmp_path / "ours", tensors)
    found = load_file(tmp_path / "ours")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_one_tensor_is_alive_at_a_time(tmp_path):
    alive, held = [], []

    def make(value):
        held.append(weakref.ref(tensor := torch.full((9,), value)))
        alive.append(sum(one() is not None for one in held))
        return tensor

    tensors = Made(
        {f"{value}": lambda value=float(value): make(value) for value in range(5)},
        {f"{value}": torch.empty(9, device="meta") for value in range(5)},
    )
    write_file(tmp_path / "ours", tensors)
    assert set(alive) == {1}
    assert [float(tensor[0]) for tensor in load_file(tmp_path / "ours").values()] == [0, 1, 2, 3, 4]
    assert all(tensor.is_meta for tensor in metas(tensors).values())


@pytest.mark.parametrize("like", [torch.empty(8, device="meta"), torch.empty(9, dtype=torch.float64, device="meta")])
def test_what_is_made_otherwise_than_it_was_described_is_not_written(tmp_path, like):
    with pytest.raises(AssertionError):
        write_file(tmp_path / "ours", Made({"x": lambda: torch.zeros(9)}, {"x": like}))
