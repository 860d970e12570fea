import subprocess
import sys

import torch
from hypothesis import given, strategies as st

from tests.oracles import splitmix
from thetahat.core.random import derived_seed, generator, uniform

ARGUMENTS = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["order", "mask", "mask/1", "order/1/2"]),
    st.lists(st.integers(0, 3), max_size=3),
)


@given(ARGUMENTS, ARGUMENTS)
def test_streams_are_the_same_exactly_where_all_arguments_are(ours, theirs):
    (seed, purpose, index), (other_seed, other_purpose, other_index) = ours, theirs
    same = derived_seed(seed, purpose, *index) == derived_seed(other_seed, other_purpose, *other_index)
    assert same == (ours == theirs)


@given(st.integers(0, 2**63), st.text(), st.lists(st.integers(), max_size=4))
def test_a_seed_is_one_that_torch_takes(seed, purpose, index):
    assert 0 <= derived_seed(seed, purpose, *index) < 2**63
    generator(seed, purpose, *index)


def test_drawing_elsewhere_changes_nothing():
    torch.manual_seed(1)
    first = torch.rand(4, generator=generator(0, "init", 3))
    torch.rand(100)
    torch.testing.assert_close(torch.rand(4, generator=generator(0, "init", 3)), first, rtol=0, atol=0)


def test_seeds_are_the_same_in_every_process_and_version():
    """A stored run depends on these numbers."""
    code = "from thetahat.core.random import derived_seed; print(derived_seed(7, 'order', 1, 2))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(other) == derived_seed(7, "order", 1, 2) == 7225676887166706402


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5), st.integers(0, 40))
def test_a_uniform_number_is_the_one_that_splitmix64_comes_to(seeds, index):
    expected = [splitmix.uniform(seed, index) for seed in seeds]
    assert uniform(torch.tensor(seeds), index).tolist() == expected
    assert uniform(torch.tensor(seeds), torch.full((len(seeds),), index)).tolist() == expected


def test_splitmix64_is_the_published_one():
    assert splitmix.outputs(0, 3) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix.outputs(1234567, 2) == [6457827717110365317, 3203168211198807973]
    known = [0xE220A8397B1DCDAF, 6457827717110365317]
    assert uniform(torch.tensor([0, 1234567]), 0).tolist() == [(one >> 11) / 2**53 for one in known]


def grid(num_seeds=1000, num_indices=1000, first=0):
    seed = torch.arange(first, first + num_seeds).repeat_interleave(num_indices)
    return uniform(seed, torch.arange(num_indices).repeat(num_seeds)).view(num_seeds, num_indices)


def test_uniform_numbers_are_uniform_along_seeds_and_along_indices():
    for numbers in (grid(), grid(first=derived_seed(0, "sequence"))):
        assert numbers.dtype == torch.float64
        assert numbers.min() >= 0
        assert numbers.max() < 1
        flat = numbers.flatten()
        assert abs(float(flat.mean()) - 1 / 2) < 4 * (1 / 12 / 1e6) ** 0.5
        assert abs(float(flat.var()) - 1 / 12) < 4 * (1 / 180 / 1e6) ** 0.5
        counts = torch.histc(flat, bins=1000, min=0, max=1)
        assert abs(float(((counts - 1000) ** 2 / 1000).sum()) - 999) < 4 * (2 * 999) ** 0.5
        for neighbours in (numbers[1:] * numbers[:-1], numbers[:, 1:] * numbers[:, :-1]):
            assert abs(float(neighbours.mean()) - 1 / 4) < 4 * (7 / 144 / 1e6) ** 0.5
        for means in (numbers.mean(0), numbers.mean(1)):
            assert ((means - 1 / 2).abs() < 5 * (1 / 12 / 1000) ** 0.5).all()


def test_no_two_neighbours_in_seed_and_index_draw_the_same():
    """A sum of seed and index, hashed, would give seed + 1 at index what seed gives at index + 1."""
    assert len(grid().unique()) == 10**6
    assert len(grid(first=-500).unique()) == 10**6
    assert len(grid(first=derived_seed(0, "sequence")).unique()) == 10**6
