import numpy as np
import pytest
import torch
from hypothesis import assume, given, strategies as st
from msgspec.structs import replace

from thetahat.core.errors import DataError
from thetahat.data.config import DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.order.stream import TrainingOrder
from thetahat.data.read.record import Record

configs = st.builds(
    DataConfig,
    context=st.integers(2, 24),
    over_long=st.sampled_from(["split", "truncate-left", "truncate-right", "drop"]),
    packing=st.sampled_from(["best-fit", "none"]),
    shifts_splits=st.booleans(),
)
texts_of = st.lists(st.integers(1, 60), min_size=1, max_size=25).map(
    lambda sizes: ["abcdefgh"[i % 8] * n for i, n in enumerate(sizes)]
)


def corpus_of(texts, tokenizer):
    records = [Record(text, f"id{i}", f"id{i}", "s", 1.0 + i) for i, text in enumerate(texts)]
    return build_corpus(records, tokenizer, {}, None)


@pytest.fixture(scope="module")
def corpus(byte_tokenizer):
    random = np.random.default_rng(0)
    return corpus_of(["x" * n for n in random.integers(1, 90, 120)], byte_tokenizer)


def an_order(corpus, config, seed=0, batch_size=3):
    if config.over_long == "drop":
        assume((corpus.lengths - 1 <= config.context).any())
    return TrainingOrder(corpus, config, seed, batch_size)


def epoch_of(order, epoch):
    """The positions of an epoch's batches."""
    first = sum(order.num_batches(before) for before in range(epoch))
    return range(first, first + order.num_batches(epoch))


@given(texts_of, configs, st.integers(0, 2), st.integers(1, 7))
def test_an_epoch_holds_each_target_that_is_kept_exactly_once(byte_tokenizer, texts, config, epoch, batch_size):
    corpus = corpus_of(texts, byte_tokenizer)
    order = an_order(corpus, config, batch_size=batch_size)
    seen = []
    for position in epoch_of(order, epoch):
        plan, _ = order.batch(position)
        seen += [(plan.span[p], t) for p in range(len(plan)) for t in range(plan.scored_from[p], plan.stop[p])]
        rows = plan.row
        assert (np.diff(rows) >= 0).all()
        assert len(set(rows)) == batch_size or position == epoch_of(order, epoch)[-1]
        assert np.bincount(rows, plan.positions).max() <= config.context
    expected = []
    for document, length in enumerate(corpus.lengths):
        targets = list(range(1, length))
        if len(targets) > config.context:
            kept = {"split": targets, "drop": [], "truncate-left": targets[-config.context :]}
            targets = kept.get(config.over_long, targets[: config.context])
        expected += [(document, target) for target in targets]
    assert sorted(seen) == expected
    assert order.cut.num_tokens == len(expected)


@given(configs, st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_a_batch_does_not_depend_on_what_was_asked_before(corpus, config, positions):
    asked = an_order(corpus, config)
    for position in positions:
        fresh = an_order(corpus, config)
        assert asked.fingerprint(position) == fresh.fingerprint(position)
        assert asked.sequences(position) == fresh.sequences(position)
        assert asked.locate(position) == fresh.locate(position)


@given(configs, st.integers(0, 40), st.integers(1, 5), st.integers(1, 4), st.integers(1, 9))
def test_any_number_of_ranks_and_micro_batches_sees_the_same_rows(corpus, config, position, world, micro, batch_size):
    order = an_order(corpus, config, batch_size=batch_size)
    expected = rows_of(order.packed(position))
    assert len(expected) == len(set(order.batch(position).pieces.row))
    dealt = [order.packed(position, rank, world, micro) for rank in range(world)]
    for rank, batches in enumerate(dealt):
        assert rows_of(batches) == expected[rank::world]
        assert all(int(packed.row[-1]) + 1 == micro for packed in batches[:-1])
        assert all(1 <= int(packed.row[-1]) + 1 <= micro for packed in batches)


def rows_of(batches):
    """Each row as what it asks: id, token, weight and place of every token."""
    rows = []
    for packed in batches:
        row = packed.row[packed.piece]
        for number in range(int(packed.row[-1]) + 1):
            mine = row == number
            ids = [part.id for part in packed.parts.named(packed.part[mine].tolist())]
            values = zip(
                packed.tokens[mine].tolist(), packed.weight[mine].tolist(), packed.position[mine].tolist(), strict=True
            )
            rows.append(list(zip(ids, values, strict=True)))
    return rows


@given(configs)
def test_positions_run_through_whole_epochs(corpus, config):
    order = an_order(corpus, config, batch_size=4)
    position = 0
    for epoch in range(3):
        for batch in range(order.num_batches(epoch)):
            assert order.locate(position) == (epoch, batch)
            position += 1


def test_epochs_and_seeds_shuffle_differently(corpus):
    config = DataConfig(context=32, over_long="split")
    order, other = TrainingOrder(corpus, config, 0, 8), TrainingOrder(corpus, config, 1, 8)
    second = order.num_batches(0)
    assert len({order.fingerprint(0), order.fingerprint(second), other.fingerprint(0)}) == 3
    assert order.fingerprint(0) == TrainingOrder(corpus, config, 0, 8).fingerprint(0)


def test_rows_are_not_in_the_order_in_which_they_were_filled(corpus):
    """Best fit fills rows from long pieces to short ones; a batch must not."""
    order = TrainingOrder(corpus, DataConfig(context=96), 0, 4)
    longest = [max(order.batch(position).pieces.positions) for position in range(order.num_batches(0))]
    assert longest != sorted(longest, reverse=True)


def test_a_shifted_split_cuts_elsewhere_each_epoch_and_an_unshifted_one_does_not(byte_tokenizer):
    corpus = corpus_of(["x" * 500], byte_tokenizer)
    for shifts, num_cuts in ((True, 4), (False, 1)):
        order = TrainingOrder(corpus, DataConfig(context=64, over_long="split", shifts_splits=shifts), 0, 2)
        cuts = {
            tuple(sorted(start for position in epoch_of(order, epoch) for _, start in order.sequences(position)))
            for epoch in range(4)
        }
        assert len(cuts) == num_cuts


def test_what_is_kept_of_a_sequence_is_written_in_its_part(byte_tokenizer):
    corpus = corpus_of(["x" * 30, "y" * 5], byte_tokenizer)
    for policy, kept in (("truncate-left", 10), ("truncate-right", 10), ("split", 31)):
        order = TrainingOrder(corpus, DataConfig(context=10, over_long=policy), 0, 9)
        (packed,) = order.packed(0)
        assert dict(
            zip([part.id for part in packed.parts.named()], packed.parts.record_tokens.tolist(), strict=True)
        ) == {"id0": kept, "id1": 6}
        assert (packed.weight > 0).sum() == kept + 6


@given(
    weights=st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=1, max_size=20).filter(any),
    config=configs,
    batch_size=st.integers(1, 4),
    has_prompts=st.booleans(),
)
def test_every_step_has_a_target_that_counts(byte_tokenizer, weights, config, batch_size, has_prompts):
    prompt = "p" if has_prompts else None
    records = [Record("ab", f"id{i}", f"id{i}", "s", weight, prompt) for i, weight in enumerate(weights)]
    corpus = build_corpus(records, byte_tokenizer, {}, None)
    if config.context < 5:
        config = replace(config, context=5)
    order = TrainingOrder(corpus, config, 0, batch_size)
    seen = set()
    for position in epoch_of(order, 0):
        assert all((pack.weight > 0).any() for pack in order.packed(position, micro_batch_size=1))
        seen |= {id for id, _ in order.sequences(position)}
    assert seen == {record.id for record in records if record.weight > 0}
    assert order.cut.documents_without_weight == weights.count(0.0)
    assert order.cut.num_documents == len(seen)
    assert order.cut.num_tokens == 3 * len(seen)
    assert (order.cut.tokens_cut, order.cut.documents_dropped) == (0, 0)
    assert ("of weight 0 not read" in str(order.cut)) == (0.0 in weights)


def test_a_fingerprint_depends_on_the_tokens(byte_tokenizer):
    config = DataConfig(context=10, over_long="split")
    first, second = (TrainingOrder(corpus_of([text], byte_tokenizer), config, 0, 9) for text in ("abc", "abd"))
    assert first.sequences(0) == second.sequences(0)
    assert first.fingerprint(0) != second.fingerprint(0)


def test_a_document_that_is_too_long_is_named_by_its_id(corpus):
    with pytest.raises(DataError, match=r"document id\d+ has 90 tokens"):
        TrainingOrder(corpus, DataConfig(context=64), 0, 4)


def test_an_order_of_nothing_is_an_error(byte_tokenizer):
    corpus = corpus_of(["x" * 30], byte_tokenizer)
    with pytest.raises(DataError, match="nothing is left"):
        TrainingOrder(corpus, replace(DataConfig(), context=8, over_long="drop"), 0, 4)


def test_the_order_leaves_the_global_random_numbers_alone(corpus):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    TrainingOrder(corpus, DataConfig(context=32, over_long="split", shifts_splits=True), 0, 8).packed(5)
    assert torch.equal(before, torch.get_rng_state())
