from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from tests.examples import TINY, decoder, packed_of
from tests.objective.layouts import OBJECTIVES, SIZE, SYMBOLS, WIDTHS, layouts, read_by, written_out
from tests.oracles import factorization as oracle
from thetahat.objective.config import Causal, Labels, Masked, ObjectiveConfig, Prefix
from thetahat.objective.factorization import causal, conditional, factor, labels, prefix
from thetahat.objective.log_prob import reference
from thetahat.objective.objective import log_likelihood
from thetahat.objective.weights import counted_weights

SEQUENCES = st.lists(st.integers(2, 9), min_size=1, max_size=6)


@given(lengths=SEQUENCES, seed=st.integers(0, 1000), num_rows=st.integers(1, 4), width=st.sampled_from([None, 60]))
def test_every_token_but_the_first_is_asked_once_after_the_one_before_it(lengths, seed, num_rows, width):
    draw = torch.Generator().manual_seed(seed)
    sequences = [torch.randint(0, 50, (length,), generator=draw).tolist() for length in lengths]
    weights = [[float(j + 1) for j in range(length - 1)] for length in lengths]
    rows = sorted(i % num_rows for i in range(len(lengths)))
    rows = [sorted(set(rows)).index(row) for row in rows]
    batch = causal(packed_of(sequences, weights, rows), row_length=width)
    supervised = sorted(
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
    assert supervised == expected
    assert int((batch.inputs.visibility.piece >= 0).sum()) == sum(lengths) - len(lengths)


def test_padding_weighs_nothing_and_its_targets_are_valid_ids():
    batch = causal(packed_of([[1, 2, 3], [4, 5]], [[1.0, 1.0], [1.0]]), row_length=7)
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


@given(layouts(has_trees=True), WIDTHS)
def test_a_causal_batch_is_what_the_definition_says_also_on_trees(layout, width):
    assert written_out(causal(layout.packed, layout.objective, width)) == oracle.causal(layout.pieces)


@given(layouts(has_trees=True), WIDTHS, st.booleans())
def test_a_prefix_batch_is_what_the_definition_says(layout, width, draws):
    batch = prefix(layout.packed, layout.objective, width, draws=draws)
    assert written_out(batch) == oracle.prefix(layout.pieces, draws=draws)


@given(layouts(), WIDTHS)
def test_a_batch_of_labels_asks_once_a_piece_at_its_first_position(layout, width):
    batch = labels(layout.packed, layout.objective, width)
    assert written_out(batch) == oracle.labels(layout.pieces)
    assert int((batch.weights != 0).sum()) <= len(layout.pieces)


@given(layouts(has_trees=True), st.sampled_from([causal, prefix]))
def test_no_answer_is_seen_before_it_is_given_not_even_through_others(layout, ask):
    """Through layers a position learns what is seen by those that it sees, so the relation is followed to its end."""
    batch = ask(layout.packed, layout.objective)
    entries, expected = written_out(batch), oracle.causal(layout.pieces)
    for place, entry in entries.items():
        if entry.question is not None:
            known, new = set(), {place}
            while new:
                known |= new
                new = set().union(*(entries[one].sees for one in new)) - known
            assert known <= expected[place].sees | {(place[0], j) for j in range(place[1] + 1)}


def test_a_later_turn_of_the_user_is_not_open_to_the_answer_before_it():
    turns = [[True, True, True, False, False, True, True, False, False]]
    packed = packed_of([list(range(9))], [[0.0, 0, 1, 1, 0, 0, 1, 1]], prompts=turns)
    visibility = prefix(packed, ObjectiveConfig()).inputs.visibility
    assert visibility.is_open.tolist() == [[True] * 3 + [False] * 5]


@pytest.mark.parametrize("length", [2, 3, 7])
def test_the_prefix_of_a_text_is_drawn_from_1_to_all_but_one_by_its_seed_alone(length):
    def weights_of(rows, seeds):
        texts = [range(length)] * len(seeds)
        return prefix(
            packed_of(texts, [[1.0] * (length - 1)] * len(seeds), rows, seeds=seeds), ObjectiveConfig()
        ).weights

    weights = weights_of(None, range(2000))
    sizes = length - weights.sum(1).long()
    assert torch.equal(weights != 0, torch.arange(1, length) >= sizes[:, None])
    counts, mean = torch.bincount(sizes, minlength=length), 2000 / (length - 1)
    assert counts[0] == 0
    assert ((counts[1:] - mean).abs() < 4 * mean**0.5).all()
    assert torch.equal(weights_of([0, 0, 0], [9, 5, 1999]).view(3, -1), weights[[9, 5, 1999]])


@st.composite
def pairs(draw):
    """A layout of sources and their targets; a source may have several, and a row several sources."""
    layout = draw(layouts(has_prompts=False))
    pieces = []
    for p, piece in enumerate(layout.drawn):
        sources = [q for q in range(p) if pieces[q].parent < 0 and pieces[q].row == piece.row]
        pieces.append(replace(piece, parent=draw(st.sampled_from([-1, *sources]))))
    return replace(layout, drawn=pieces)


@given(pairs(), WIDTHS)
def test_a_conditional_batch_is_what_the_definition_says(layout, width):
    batch = conditional(layout.packed, layout.objective, width)
    sources, targets = oracle.conditional(layout.pieces)
    assert written_out(batch) == targets
    assert read_by(batch.inputs.source.inputs) == sources
    assert batch.inputs.source.inputs.tokens.shape[0] == batch.targets.shape[0] == layout.pieces[-1].row + 1


def test_two_targets_share_one_source_and_do_not_see_each_other():
    packed = packed_of(
        [[5, 6, 7], [0, 8, 0], [0, 9, 9, 0], [4]], [[0, 0], [1, 1], [1, 1, 1], []], [0, 0, 0, 1], parents=[-1, 0, 0, -1]
    )
    batch = conditional(packed, ObjectiveConfig())
    assert batch.inputs.source.inputs.tokens.tolist() == [[5, 6, 7], [4, 0, 0]]
    assert batch.inputs.source.mask()[0].tolist() == [[True] * 3] * 5
    assert batch.inputs.source.mask()[1].tolist() == [[True] * 3] * 5  # all padding, so that no softmax is empty
    assert batch.inputs.visibility.mask()[0, 3].tolist() == [False, False, True, True, False]


FACTORIZATIONS = st.sampled_from([Causal(), Prefix(), Masked(), Masked(replace="80-10-10", unit="word"), Labels()])


@given(layouts(), FACTORIZATIONS, OBJECTIVES, WIDTHS)
def test_what_is_asked_of_a_model_is_the_same_whether_or_not_the_rest_is_left_out(layout, choice, objective, width):
    objective = ObjectiveConfig(factorization=choice, normalization=objective.normalization)
    batch = factor(layout.packed, objective, SYMBOLS, width)
    model = decoder(TINY, SIZE)
    found, expected = (log_likelihood(model, one) for one in (batch, replace(batch, supervised=None)))
    torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=1e-12, atol=1e-12)
    assert found.weight == expected.weight == batch.weights.sum()


def test_nothing_is_listed_as_asked_where_everything_that_is_read_is_asked():
    """With padding too: what is listed is what lies between."""
    whole = packed_of([[1, 2, 3], [4, 5]], [[1.0, 1.0], [1.0]])
    assert causal(whole, row_length=9).supervised is None
    assert causal(packed_of([[1, 2, 3], [4, 5]], [[1.0, 0.0], [1.0]]), row_length=9).supervised.tolist() == [0, 9]
    assert labels(packed_of([[1, 2], [3, 2]], [[1.0], [1.0]]), ObjectiveConfig()).supervised is None


PREFIX, BRANCHES = [0, 7, 3, 9], [[9, 4, 4, 1], [9, 2], [9, 8, 5]]


def tree_of(branches, prefix=PREFIX):
    """A prefix and branches that begin with its last token at its last position; the second continues the first."""
    last = len(prefix) - 1
    starts = [0, last, last + len(branches[0]) - 1, last]
    branches = [branches[0], [branches[0][-1], *branches[1][1:]], branches[2]]
    weights = [[1.0] * (len(tokens) - 1) for tokens in (prefix, *branches)]
    return packed_of([prefix, *branches], weights, [0] * 4, parents=[-1, 0, 1, 0], starts=starts)


def log_probs_of(model, batch):
    flat = reference(model.hidden(batch.inputs).flatten(0, 1), model.head, batch.targets.flatten()).log_prob
    return flat.view_as(batch.targets)


def test_a_tree_has_the_log_probabilities_of_its_paths():
    model = decoder(TINY, vocab_size=11)
    tree = log_probs_of(model, causal(tree_of(BRANCHES)))[0]
    first, second, third = tree[3:6], tree[6:7], tree[7:9]
    paths = [PREFIX + BRANCHES[0][1:] + BRANCHES[1][1:], PREFIX + BRANCHES[2][1:]]
    joined = [torch.cat([tree[:3], first, second]), torch.cat([tree[:3], third])]
    for path, found in zip(paths, joined, strict=True):
        expected = log_probs_of(model, causal(packed_of([path], [[1.0] * (len(path) - 1)])))[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_branch_changes_no_bit_of_the_others():
    model = decoder(TINY, vocab_size=11)
    one = log_probs_of(model, causal(tree_of(BRANCHES)))[0]
    other = log_probs_of(model, causal(tree_of([[9, 6, 10, 2], *BRANCHES[1:]])))[0]
    untouched = [0, 1, 2, 7, 8]
    assert torch.equal(one[untouched], other[untouched])
    assert (one[3:7] != other[3:7]).all()
