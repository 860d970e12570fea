"""Several sources: which of them fills which row, in which epoch of its own."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st
from scipy.stats import binom

from thetahat.core.config import Config, from_toml, override, to_toml
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.config import DataConfig, SourceConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.order import mixture as of_mixture
from thetahat.data.order.mixture import Mixture
from thetahat.data.order.stream import TrainingOrder
from thetahat.data.read.record import Record
from thetahat.data.read.source import divide


class _Root(Config, kw_only=True):
    data: DataConfig = DataConfig()


quick = settings(max_examples=30, phases=[Phase.explicit, Phase.generate])


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(of_mixture, "BLOCK", 16)


@pytest.mark.usefixtures("_small")
@quick
@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.none() | st.integers(1, 60)), min_size=1, max_size=4),
    st.integers(0, 300),
    st.integers(0, 40),
)
def test_any_row_of_a_mixture_is_known_without_those_before_it(sources, first, size):
    shares, limits = zip(*sources, strict=True)
    mixture, all_rows = Mixture(1, shares, limits), Mixture(1, shares, limits).sources(0, 340)
    end = mixture.num_rows or 340
    assert (mixture.num_rows is None) == (None in limits)
    if mixture.num_rows is not None:
        assert mixture.num_rows == sum(limits)
    last = min(first + size, end)
    assert mixture.sources(first, last).tolist() == all_rows[first:last].tolist()
    counts = np.bincount(all_rows[: min(first, end)], minlength=len(shares))
    assert mixture.counts(min(first, end)).tolist() == counts.tolist()
    for number, limit in enumerate(limits):
        assert limit is None or (all_rows[:end] == number).sum() <= limit


def test_shares_of_a_thousand_steps_lie_in_the_binomial_interval_of_their_weights():
    weights = np.array([3.0, 1.0, 0.05])
    for seed in range(5):
        counts = Mixture(seed, weights.tolist(), [None] * 3).counts(1000 * 7)
        for count, share in zip(counts, weights / weights.sum(), strict=True):
            low, high = binom.interval(0.95, 7000, share)
            assert low <= count <= high


SOURCES = {"big": 60, "small": 7, "tiny": 3}


@pytest.fixture(scope="module")
def corpus(byte_tokenizer):
    random = np.random.default_rng(0)
    names = [name for name, count in SOURCES.items() for _ in range(count)]
    records = [Record("x" * int(random.integers(1, 20)), f"{i}", f"{i}", name) for i, name in enumerate(names)]
    return build_corpus(records, byte_tokenizer, {}, None)


def mixed(weights, **other):
    sources = {name: SourceConfig(path=name, weight=weight) for name, weight in zip(SOURCES, weights, strict=True)}
    return DataConfig(context=24, sources=sources, **other)


@pytest.mark.parametrize("packing", ["best-fit", "none"])
@pytest.mark.parametrize("shifts", [True, False])
def test_each_source_has_every_unit_once_in_each_epoch_of_its_own(corpus, packing, shifts):
    config = mixed((2, 1, 1), packing=packing, over_long="split", shifts_splits=shifts)
    order = TrainingOrder(corpus, config, 0, 5)
    found = {}
    for position in range(60):
        pieces, epoch = order.batch(position)
        assert sorted(set(pieces.row.tolist())) == list(range(5))
        assert np.bincount(pieces.row, pieces.size).max() <= config.context
        sources = corpus.documents["source"].take(corpus.column["spans.document"][pieces.span]).to_pylist()
        for row in range(5):
            assert len({name for name, at in zip(sources, pieces.row, strict=True) if at == row}) == 1
        for name, number, span in zip(sources, epoch.tolist(), pieces.span.tolist(), strict=True):
            found.setdefault((name, number), []).append(span)
    uses = {use.name: use for use in order.uses(0, 60)}
    first = 0
    for name, count in SOURCES.items():
        whole = int(uses[name].epochs)
        for epoch in range(whole):
            assert sorted(found[name, epoch]) == list(range(first, first + count))
        assert max(epoch for source, epoch in found if source == name) <= whole
        first += count
    assert uses["tiny"].epochs > 3


def test_a_batch_of_a_mixture_does_not_depend_on_ranks_or_on_what_was_asked_before(corpus):
    order = TrainingOrder(corpus, mixed((2, 1, 1)), 0, 6)
    order.fingerprint(31)
    for position in (17, 2):
        fresh = TrainingOrder(corpus, mixed((2, 1, 1)), 0, 6)
        assert order.fingerprint(position) == fresh.fingerprint(position)
        (whole,) = order.packed(position)
        halves = [order.packed(position, rank, 2)[0] for rank in range(2)]
        assert sorted(whole.seed.tolist()) == sorted(halves[0].seed.tolist() + halves[1].seed.tolist())
        assert fresh.targets_before(position + 1) - fresh.targets_before(position) == int((whole.weight > 0).sum())


def test_without_weights_the_shares_are_the_sizes_tempered(corpus):
    sources = {name: SourceConfig(path=name) for name in SOURCES}
    uses = {}
    for temperature in (None, 1.0, 1e6):
        order = TrainingOrder(corpus, DataConfig(context=24, sources=sources, temperature=temperature), 0, 8)
        uses[temperature] = order.uses(0, 1000)
    total = sum(use.num_targets for use in uses[None])
    assert [use.share for use in uses[None]] == [use.share for use in uses[1.0]]
    for plain, even in zip(uses[None], uses[1e6], strict=True):
        assert plain.share == pytest.approx(plain.num_targets / total, abs=6e-3)
        assert even.share == pytest.approx(1 / 3, abs=6e-3)


def test_a_source_that_is_used_up_leaves_its_share_to_the_others(corpus):
    config = mixed((1, 1, 1))
    limited = {name: SourceConfig(path=name, weight=1.0, max_epochs=2 if name == "tiny" else None) for name in SOURCES}
    order = TrainingOrder(corpus, DataConfig(context=24, sources=limited), 0, 6)
    tiny = next(use for use in order.uses(0, 40) if use.name == "tiny")
    assert (tiny.epochs, tiny.is_used_up) == (2.0, True)
    assert "then used up" in str(tiny)
    late = {use.name: use.share for use in order.uses(30, 60)}
    assert late["tiny"] == 0
    all_limited = {name: SourceConfig(path=name, weight=1.0, max_epochs=1) for name in SOURCES}
    with pytest.raises(ConfigError, match="used up after"):
        TrainingOrder(corpus, DataConfig(context=24, sources=all_limited), 0, 6).uses(0, 1000)
    assert config.sources["tiny"].max_epochs is None


def test_records_are_named_after_their_source_and_each_is_divided(write):
    for name in ("a", "b"):
        write(f"{name}.jsonl", [{"text": f"{name} {number}"} for number in range(40)])
    folder = write("x", "").parent
    pairs = [f"data.sources.{name}.path={folder}/{name}.jsonl" for name in ("a", "b")]
    config = override(_Root(), pairs).data
    assert from_toml(to_toml(config), DataConfig) == config
    train, held_out = divide(config)
    for records in (train, held_out):
        assert {record.source for record in records} == {"a", "b"}
        assert all(record.id.startswith(f"{record.source}/") for record in records)
    assert len(list(train)) + len(list(held_out)) == 80


def test_a_source_says_itself_what_is_held_out_of_it(write):
    for name in ("a", "b", "c", "d"):
        write(f"{name}.jsonl", [{"text": f"{name} {number}"} for number in range(40)])
    folder = write("x", "").parent

    def divided(**held_out):
        sources = {
            name: SourceConfig(path=f"{folder}/{name}.jsonl", held_out=held_out.get(name)) for name in ("a", "b", "c")
        }
        return divide(DataConfig(sources=sources, held_out="tail:0.5"))

    config = DataConfig(sources={"a": SourceConfig(path="x", held_out="none")}, held_out="tail:0.5")
    assert config.rules == {"none"}
    train, held_out = divided(a="none", b=f"{folder}/d.jsonl")
    assert Counter(record.source for record in train) == {"a": 40, "b": 40, "c": 21}
    assert Counter((record.source, record.text[0]) for record in held_out) == {("b", "d"): 40, ("c", "c"): 19}
    assert divided(a="none", b="none")[1].sources[0][0] == "c"
    with pytest.raises(DataError, match=r"a\.jsonl is in data.sources.a and among what is held out of data.sources.b"):
        divided(b=f"{folder}/a.jsonl")
    with pytest.raises(
        DataError, match=r"b\.jsonl is in data.sources.b.path=.* and in data.sources.b.held_out="
    ) as refused:
        divided(b=f"{folder}/b.jsonl")
    assert "data.sources.b.held_out=hash:0.1" in str(refused.value)


@pytest.mark.parametrize(
    ("sources", "other"),
    [
        ({"a": {"path": "x", "held_out": "tail:2"}}, {}),
        ({"a": {"path": "x", "held_out": "y"}}, {"held_out": "z"}),
        ({"a": {"path": "x", "weight": 1}, "b": {"path": "y"}}, {}),
        ({"a": {"path": "x", "weight": 1}}, {"temperature": 2.0}),
        ({}, {"temperature": 2.0}),
        ({"a/b": {"path": "x"}}, {}),
        ({"a": {"path": "x"}}, {"source_weights": {"c": 1.0}}),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(sources, other):
    with pytest.raises(ConfigError):
        DataConfig(sources={name: SourceConfig(**one) for name, one in sources.items()}, **other)
