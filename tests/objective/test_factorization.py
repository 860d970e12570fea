import torch
from hypothesis import given, strategies as st

from tests.examples import packed_of
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.factorization import causal
from thetahat.objective.weights import counted_weights

SEQUENCES = st.lists(st.integers(2, 9), min_size=1, max_size=6)


@given(lengths=SEQUENCES, seed=st.integers(0, 1000), num_rows=st.integers(1, 4), width=st.sampled_from([None, 60]))
def test_every_token_but_the_first_is_asked_once_after_the_one_before_it(lengths, seed, num_rows, width):
    draw = torch.Generator().manual_seed(seed)
    sequences = [torch.randint(0, 50, (length,), generator=draw).tolist() for length in lengths]
    weights = [[float(j + 1) for j in range(length - 1)] for length in lengths]
    rows = sorted(i % num_rows for i in range(len(lengths)))
    rows = [sorted(set(rows)).index(row) for row in rows]
    batch = causal(packed_of(sequences, weights, rows), width=width)
    asked = sorted(
        (int(p), float(w), int(x), int(t))
        for p, w, x, t in zip(
            batch.part.flatten(),
            batch.weights.flatten(),
            batch.inputs.tokens.flatten(),
            batch.targets.flatten(),
            strict=True,
        )
        if w > 0
    )
    expected = sorted(
        (s, float(j + 1), sequence[j], sequence[j + 1])
        for s, sequence in enumerate(sequences)
        for j in range(len(sequence) - 1)
    )
    assert asked == expected
    assert int((batch.inputs.visibility.piece >= 0).sum()) == sum(lengths) - len(lengths)


def test_padding_weighs_nothing_and_its_targets_are_valid_ids():
    batch = causal(packed_of([[1, 2, 3], [4, 5]], [[1.0, 1.0], [1.0]]), width=7)
    assert batch.targets.shape == (2, 7)
    assert batch.targets.min() >= 0
    assert batch.weight() == 3
    assert batch.inputs.visibility.is_plain


def test_rows_of_several_pieces_are_not_plain():
    assert not causal(packed_of([[1, 2], [3, 4]], [[1.0], [1.0]], rows=[0, 0])).inputs.visibility.is_plain


def test_by_sequence_each_sequence_weighs_what_its_record_asked_for():
    """Real-valued weights stay real: 0.5 on every token is half a sequence, not a whole one."""
    packed = packed_of([[1, 2, 3, 4], [5, 6]], [[0.5, 0.5, 0.5], [1.0]])
    weights = counted_weights(packed, ObjectiveConfig(normalization="sequence"))
    assert weights.dtype == torch.float64
    torch.testing.assert_close(weights[packed.part == 0].sum(), torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(weights[packed.part == 1].sum(), torch.tensor(1.0, dtype=torch.float64))
    assert counted_weights(packed, ObjectiveConfig()).sum() == 2.5
