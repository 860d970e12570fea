"""Corpora with more units than one window: planned a window at a time, from pieces in files."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings, strategies as st

from tests.data.order.test_stream import configs, corpus_of, epoch_of
from thetahat.core.errors import DataError
from thetahat.core.layout import PAIR
from thetahat.core.random import permuted
from thetahat.data.config import DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.encode import Encoding
from thetahat.data.order import epoch as of_epochs, rows as of_rows
from thetahat.data.order.plan import plan_training
from thetahat.data.order.stream import TrainingOrder
from thetahat.data.read.cache import cache_folder
from thetahat.data.read.record import Record

quick = settings(max_examples=10, phases=[Phase.explicit, Phase.generate])  # of failures the first is shown
# of a corpus in one window, by the order as it was before there were windows
RECORDED = {
    "best-fit": ["6548e5a49d8a71cb", "adb4bd30d5245250", "8d23f6d44449e0ae", "ca620dda55466ea4"],
    "none": ["39b05fa1649a1b7b", "c2e0d86300ba01e6", "62c251ac30e49df5", "094683bf35058d9c"],
}


@pytest.fixture(scope="module")
def corpus(byte_tokenizer):
    random = np.random.default_rng(0)
    return corpus_of(["x" * n for n in random.integers(1, 90, 120)], byte_tokenizer)


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(of_rows, "WINDOW", 16)
    monkeypatch.setattr(of_epochs, "MOST_SPANS", 32)
    monkeypatch.setattr(of_epochs, "MOST_TOKENS", 700)


@pytest.mark.parametrize("packing", ["best-fit", "none"])
def test_what_fits_in_a_window_has_the_order_that_it_had_before_there_were_windows(corpus, packing):
    order = TrainingOrder(corpus, DataConfig(context=32, over_long="split", packing=packing), 5, 8)
    assert [order.fingerprint(position) for position in (0, 3, 40, 71)] == RECORDED[packing]


@given(size=st.integers(1, 5000), seed=st.integers(0, 3))
def test_a_permutation_by_index_takes_every_number_once(size, seed):
    found = permuted(seed, torch.arange(size), size)
    assert sorted(found.tolist()) == list(range(size))
    some = torch.randint(size, (9,))
    assert permuted(seed, some, size).tolist() == found[some].tolist()
    if size > 500:
        assert abs(np.corrcoef(found.numpy(), np.arange(size))[0, 1]) < 0.2
        assert found.tolist() != permuted(seed + 1, torch.arange(size), size).tolist()


@pytest.mark.usefixtures("_small")
@quick
@given(config=configs, batch_size=st.integers(2, 70))
def test_every_epoch_of_several_windows_has_each_piece_once(corpus, config, batch_size):
    order = TrainingOrder(corpus, config, 3, batch_size)
    for epoch in range(2):
        wanted, _ = plan_training(corpus, config, order._phase(epoch))
        seen = []
        for position in epoch_of(order, epoch):
            pieces, epochs = order.batch(position)
            assert (epochs == epoch).all()
            assert len(np.unique(pieces.row)) == batch_size or position == epoch_of(order, epoch)[-1]
            assert np.bincount(pieces.row, pieces.size).max() <= config.context
            seen += zip(pieces.span.tolist(), pieces.start.tolist(), pieces.stop.tolist(), strict=True)
        pieces = wanted.pieces
        assert sorted(seen) == sorted(
            zip(pieces.span.tolist(), pieces.start.tolist(), pieces.stop.tolist(), strict=True)
        )
    assert order._rows._num_windows(0) == -(-len(order.plan(0).pieces) // 16)


@pytest.mark.usefixtures("_small")
@quick
@given(config=configs, positions=st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_a_batch_of_some_window_does_not_depend_on_what_was_asked_before(corpus, config, positions):
    asked = TrainingOrder(corpus, config, 3, 3)
    for position in positions:
        fresh = TrainingOrder(corpus, config, 3, 3)
        assert asked.fingerprint(position) == fresh.fingerprint(position)
        before = [fresh.targets_before(number) for number in (position, position + 1)]
        assert before[1] - before[0] == sum(int(pack.weight.gt(0).sum()) for pack in asked.packed(position))


@pytest.mark.usefixtures("_small")
def test_epochs_and_seeds_visit_windows_in_other_orders(corpus):
    config = DataConfig(context=96)
    order, other = TrainingOrder(corpus, config, 0, 8), TrainingOrder(corpus, config, 1, 8)
    second = order.num_batches(0)
    assert len({order.fingerprint(0), order.fingerprint(second), other.fingerprint(0)}) == 3
    halves = [
        {one for position in range(first, first + 2) for one in order.sequences(position)} for first in (0, second)
    ]
    assert halves[0] != halves[1]


@pytest.mark.usefixtures("_small")
@quick
@given(config=configs)
def test_a_plan_in_files_is_the_plan_in_memory(corpus, config):
    phase = np.arange(len(corpus.lengths)) % config.context if config.shifts_splits else None
    mapped = of_epochs.plan_epoch(corpus, config, phase, (int(config.shifts_splits),))
    plan, cut = plan_training(corpus, config, phase)
    assert mapped.cut == cut
    assert (cache_folder("plans") / mapped.digest).is_dir()
    for name in ("span", "start", "scored_from", "stop", "parent", "unit", "size"):
        np.testing.assert_array_equal(getattr(mapped.plan.pieces, name), getattr(plan.pieces, name), name)
    for name in ("kept", "num_targets", "record_tokens", "record_parts", "has_prompt"):
        np.testing.assert_array_equal(getattr(mapped.plan, name), getattr(plan, name), name)


@pytest.mark.usefixtures("_small")
def test_units_of_several_pieces_stay_together_in_a_plan_in_files(byte_tokenizer):
    """Prompts and completions in an encoder-decoder, some of weight 0."""
    records = [
        Record("c" * (1 + i % 9), f"id{i}", f"id{i}", "s", float(i % 5 > 0), prompt="p" * (1 + i % 7))
        for i in range(90)
    ]
    corpus = build_corpus(records, byte_tokenizer, {}, None, Encoding(PAIR, room=16))
    config = DataConfig(context=16)
    order = TrainingOrder(corpus, config, 0, 6)
    plan, cut = plan_training(corpus, config)
    assert order.cut == cut
    assert cut.documents_without_weight == 18
    assert order._rows._num_windows(0) == 5
    seen = []
    for position in range(order.num_batches(0)):
        pieces = order.batch(position).pieces
        assert pieces.parent.tolist() == [0, 1] * (len(pieces) // 2)
        assert (np.diff(pieces.span.reshape(-1, 2)) == 1).all()
        seen += pieces.span.tolist()
        (packed,) = order.packed(position)
        assert (
            packed.parts.record_tokens.tolist()
            == plan.record_tokens[[int(id[2:]) for id in map(_id, packed.parts.named())]].tolist()
        )
    assert sorted(seen) == sorted(plan.pieces.span.tolist())


def _id(part):
    return part.id


@pytest.mark.usefixtures("_small")
def test_what_is_too_long_or_asks_nothing_is_counted_over_all_parts_of_a_plan(byte_tokenizer, corpus):
    longest = int((corpus.lengths > 81).sum())
    with pytest.raises(DataError, match=f"{longest} of 120 documents are too long"):
        TrainingOrder(corpus, DataConfig(context=80), 0, 4)
    records = [Record("cc", f"id{i}", f"id{i}", "s", prompt="p" * (40 if i % 10 == 0 else 3)) for i in range(90)]
    asked = build_corpus(records, byte_tokenizer, {}, None)
    with pytest.raises(DataError, match=r"9 of 90 records ask nothing.*id0, id10"):
        TrainingOrder(asked, DataConfig(context=16, over_long="truncate-right"), 0, 4)


@pytest.mark.usefixtures("_small")
def test_the_rows_of_windows_are_counted_once(corpus, monkeypatch):
    config = DataConfig(context=96)
    found = TrainingOrder(corpus, config, 0, 8).fingerprint(4)
    monkeypatch.setattr(of_rows, "num_rows_of", None)  # is not called
    assert TrainingOrder(corpus, config, 0, 8).fingerprint(4) == found


def test_a_part_of_a_corpus_is_the_corpus_of_its_records(byte_tokenizer):
    records = [Record("c" * (1 + i % 9), f"id{i}", f"id{i}", "s", prompt="p" * (i % 4)) for i in range(20)]
    whole = build_corpus(records, byte_tokenizer, {}, None)
    part, alone = whole.part_of_it(7, 15), build_corpus(records[7:15], byte_tokenizer, {}, None)
    assert part.tokens.tolist() == alone.tokens.tolist()
    for name, values in alone.column.items():
        np.testing.assert_array_equal(part.column[name], values, name)
    assert part.describe(range(part.num_parts)) == alone.describe(range(alone.num_parts))
    assert dataclasses.replace(part).num_tokens == alone.num_tokens
