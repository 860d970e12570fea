"""`thetahat verify` holds on what is right and fails on what the field got wrong."""

from dataclasses import replace as replace_fields

import pytest
import torch
from msgspec.structs import replace

from tests.examples import TINY, corpus_of, run_config, texts_of, with_normalization
from thetahat.core.total import Total
from thetahat.data.config import DataConfig
from thetahat.data.order.stream import TrainingOrder
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.proof import bench as bench_module
from thetahat.proof.bench import Bench
from thetahat.run.prepare import Prepared
from thetahat.verbs import verify as verify_module
from thetahat.verbs.verify import gradient_distance, verify

SHAPE = replace(TINY, num_layers=1)


def bench_of(config, dtype="float64"):
    corpus = corpus_of(12, longest=20)
    order = TrainingOrder(corpus, config.data, config.seed, config.batch_size)
    tokenizer = train_tokenizer(texts_of(12, longest=20), 300)
    prepared = Prepared(config, tokenizer, corpus, order, None, 1)
    bench = Bench(config, prepared, dtype)
    return bench


def checks(config, dtype="float64"):
    return _checks(bench_of(config, dtype))


def checks_of(config, prepared, dtype):
    return _checks(Bench(config, prepared, dtype))


def _checks(bench):
    found = [*verify_module._cuttings(verify_module.Plain.of(bench)), *verify_module._perturbations(bench)]
    return {one.name: one for one in found}


@pytest.mark.parametrize("normalization", ["token", "sequence", "sum"])
def test_every_equivalence_holds(normalization):
    found = checks(with_normalization(run_config(SHAPE, batch_size=8), normalization))
    assert {name: one.holds for name, one in found.items()} == dict.fromkeys(found, True)
    assert {"one-by-one", "ragged-accumulation", "padded", "packed", "shuffled", "chunked"} <= set(found)


def mean_of_means(monkeypatch):
    from thetahat.run import step as module

    right = module.terms

    def wrong(*arguments):
        found = right(*arguments)
        weight = found.total.weight
        return found._replace(value=found.value / weight, total=Total(found.total.log_prob / weight, weight))

    monkeypatch.setattr(module, "terms", wrong)
    monkeypatch.setattr(module, "weigh", lambda batches, world: (float(len(batches)), 1))


def on_batches(change):
    def apply(monkeypatch):
        right = bench_module.factor
        monkeypatch.setattr(bench_module, "factor", lambda *arguments: change(right(*arguments)))

    return apply


def double_shift(batch):
    return replace_fields(batch, targets=batch.targets.roll(-1, 1))


def leak(batch):
    piece = torch.where(batch.inputs.visibility.piece >= 0, 0, -1)
    return _seeing(batch, replace_fields(batch.inputs.visibility, piece=piece, is_plain=False))


def look_ahead(batch):
    return _seeing(batch, replace_fields(batch.inputs.visibility, is_causal=False, is_plain=False))


def padding_counts(batch):
    return replace_fields(batch, weights=torch.ones_like(batch.weights))


def positions_run_on(batch):
    columns = torch.arange(batch.targets.shape[1]).expand_as(batch.targets)
    moved = torch.where(batch.inputs.visibility.piece >= 0, columns**2 % 7, 0)
    return replace_fields(batch, inputs=replace_fields(batch.inputs, position=moved))


def _seeing(batch, visibility):
    return replace_fields(batch, inputs=replace_fields(batch.inputs, visibility=visibility))


MUTATIONS = {
    "mean of means": (mean_of_means, {"one-by-one", "ragged-accumulation"}),
    "double shift": (on_batches(double_shift), {"prefix-by-prefix"}),
    "leak across documents": (on_batches(leak), {"packed", "no-leak"}),
    "missing causal mask": (on_batches(look_ahead), {"no-look-ahead", "prefix-by-prefix"}),
    "padding counted": (on_batches(padding_counts), {"padded", "packed"}),
    "wrong positions": (on_batches(positions_run_on), {"packed", "prefix-by-prefix"}),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_proof_fails_on(name, monkeypatch):
    mutate, caught_by = MUTATIONS[name]
    mutate(monkeypatch)
    found = checks(run_config(SHAPE, batch_size=8))
    assert caught_by <= {one.name for one in found.values() if not one.holds}


def test_float32_stays_within_its_bound():
    shape = replace(TINY, num_layers=2, width=32, head_width=16, inner_width=64)
    found = checks(run_config(shape, batch_size=8), dtype="float32")
    assert max(one.max_relative_gradient_error for one in found.values()) <= 2e-6
    assert {name: one.holds for name, one in found.items()} == dict.fromkeys(found, True)


@pytest.mark.parametrize("seed", [13, 14, 15])
def test_the_bound_of_a_tiny_model_follows_its_rounding(seed):
    """Of these one way is more than twice as far from the plain one as that is from float64, by chance."""
    bench = bench_of(run_config(TINY, batch_size=8, seed=seed), "float32")
    plain = verify_module.Plain.of(bench)
    found = [*verify_module._cuttings(plain)]
    by_one_draw = max(2e-6, 2 * plain.to_float64.max_relative_gradient_error)
    assert max(one.max_relative_gradient_error for one in found if one.name != "to-float64") > by_one_draw
    assert [one for one in found if not one.holds] == []
    rounded = {name: one.bfloat16().float() for name, one in plain.outcome.gradients.items()}
    assert not plain.compared_with("rounded", replace_fields(plain.outcome, gradients=rounded)).holds


def test_a_nan_does_not_hold():
    gradients = {"a": torch.ones(2)}
    assert gradient_distance(gradients, {"a": torch.full((2,), float("nan"))}) != 0
    broken = verify_module.Equivalence("x", "float32", 0.0, float("nan"), 1.0)
    assert not broken.holds


def test_the_distance_is_that_of_the_worst_tensor():
    plain = {"large": torch.tensor([3.0, 4.0]), "small": torch.tensor([1e-9])}
    other = {"large": torch.tensor([3.0, 4.5]), "small": torch.tensor([2e-9])}
    assert gradient_distance(plain, other) == pytest.approx(0.1)
    assert gradient_distance(plain, plain | {"small": torch.tensor([0.05])}) == pytest.approx(10, rel=1e-3)


@pytest.mark.multi
def test_two_and_three_gloo_ranks_take_the_same_step(tmp_path, monkeypatch):
    """Real processes; of three ranks the last has no sequence at all. In float32 two round far apart, by chance."""
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path))
    text = tmp_path / "text.jsonl"
    words = [" ".join(["the sea and the ship"] * (i % 5 + 1)) for i in range(20)]
    text.write_text("".join(f'{{"text": "{line} {i}"}}\n' for i, line in enumerate(words)))
    data = DataConfig(train=str(text), held_out="none", context=32, over_long="split", vocab_size=300)
    config = run_config(TINY, data=data, dtype="float32", batch_size=8, threads=1)
    found = {(one.name, one.dtype): one for one in verify(config)}
    layouts = {name for name, _ in found if name[0].isdigit()}
    of_two = {"2-ranks", "2-shards", "2-context", "2-tensor", "2-pipeline"}
    assert layouts == of_two | {"3-ranks", "3-shards", "3-context"}  # two layers, and two heads of keys and values
    assert {(name, dtype) for name in layouts for dtype in ("float64", "float32")} <= set(found)
    assert [one for one in found.values() if not one.holds] == []
