"""A tree holds its paths, shares what contexts have in common, and asks each token once."""

from hypothesis import given, strategies as st

from tests.oracles import dialogue as oracle
from thetahat.data.tokens.encoded import EncodedPart
from thetahat.data.tokens.tree import Tree

ids = st.lists(st.integers(0, 1), min_size=1, max_size=6)
paths_of = st.lists(st.tuples(ids, ids), min_size=1, max_size=8)


def grown(paths):
    tree, parts = Tree(), []
    for index, (context, completion) in enumerate(paths):
        parts += [EncodedPart(f"before-{index}", is_prompt=True), EncodedPart(f"turn-{index}")]
        tree.add(context, completion, (2 * index, 2 * index + 1))
    return tree, parts


@given(paths_of)
def test_every_path_comes_back(paths):
    tree, parts = grown(paths)
    assert oracle.paths(tree.sequences(), parts) == {f"turn-{index}": path for index, path in enumerate(paths)}


@given(paths_of)
def test_what_is_read_is_counted(paths):
    tree, _ = grown(paths)
    assert tree.positions == sum(len(span.tokens) - 1 for sequence in tree.sequences() for span in sequence)


@given(paths_of)
def test_spans_are_as_long_as_they_can_be(paths):
    """No span has a single child, and none is empty."""
    for sequence in grown(paths)[0].sequences():
        parents = [span.parent for span in sequence]
        assert all(parents.count(index) != 1 for index in range(len(sequence)))
        assert all(len(span.tokens) == len(span.part) >= 2 for span in sequence)
        assert all(span.parent < index for index, span in enumerate(sequence))


@given(paths_of)
def test_a_context_is_not_written_twice(paths):
    """What a path adds is what no earlier one holds, seen along one walk; a completion is always added."""
    tree = Tree()
    for index, (context, completion) in enumerate(paths):
        shared = tree.shared(context)
        held = [(*other, *asked) for other, asked in paths[:index]]
        assert shared <= max((agreement(context, path) for path in held), default=0)
        assert shared >= max((agreement(context, other) for other, _ in paths[:index]), default=0)
        before = tree.positions
        tree.add(context, completion, (0, 1))
        assert tree.positions - before == len(context) + len(completion) - (shared or 1)


def agreement(one, other):
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count
