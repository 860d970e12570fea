"""A setting that nothing reads is an error that says why and what to type."""

import re

import pytest
from msgspec.structs import replace

from tests.examples import run_config
from thetahat.core.config import override, settings, settings_of, to_toml
from thetahat.core.errors import ConfigError
from thetahat.core.schema import known_keys
from thetahat.model.config import DecoderConfig
from thetahat.recipes.catalogue import RECIPES, find_recipe
from thetahat.run.base import refuse_typed
from thetahat.run.config import RunConfig
from thetahat.run.ignored import OfBase, beside_base, refuse_beside_base, refuse_ignored

IGNORED = {
    "quickstart": [
        "objective.length_exponent=0.3",
        "data.source_context=64",
        'data.labels=["a", "b"]',
        "data.train=x.txt data.sources.a.path=y.txt",
        "data.tokenizer_bytes=1000 data.tokenizer=tokenizer.json",
        "ledger.every=0 ledger.tokens=true",
        "samples.every=3",
        "float8=true",
        "mesh.turns=2",
        "mesh.offload=true",
        "evaluation.ema=true",
        "samples.max_tokens=3",
        "samples.temperature=0",
        "base_digest=0123",
        "base_vocab_size=300",
        "base_rows=400",
        "skip_steps=[3,99999999]",
        "objective.balance.bias_rate=0.01",
        "objective.balance.sequence=0.01",
        "objective.balance.router_z=0.01",
        "model.experts.has_bias=false objective.balance.bias_rate=0",
        "model.experts.group_score=best",
        "model.experts.num_groups=2 model.experts.num_chosen_groups=2",
        "model.layers=latent model.attention.query_key_norm=none",
        "model.layers=delta,linear,attention model.num_layers=2",
        "model.layers=latent model.attention.sharing=2",
        "model.layers=[{},{distance=255}] data.context=256",
        "model.layers=[{distance=251,num_global=4}] data.context=256",
    ],
    "masked": ["objective.factorization.mean_span=5", "data.source_context=64"],
    "classification": [
        "samples.prompts=Once",
        "objective.length_exponent=1",
        "objective.normalization=token objective.length_exponent=0.1",
    ],
    "translation": ['data.labels=["a", "b"]'],
    "dialogue": [
        "data.chat.date=2025-01-31",
        "data.chat.named=rag",
        "data.chat.variables.enable_thinking=true",
        "data.chat.variables.x=1",
    ],
}
READ = {
    "quickstart": [
        "objective.normalization=length objective.length_exponent=0.3",
        "float8=true dtype=bfloat16",
        "ledger.tokens=true",
        "samples.prompts=Once samples.every=3",
        "optimization.ema=0.9 evaluation.ema=true",
        "data.sources.a.path=y.txt",
        "data.train= data.sources.a.path=y.txt",
        "skip_steps=[3]",
        "model.experts.num_experts=4 objective.balance.bias_rate=0.01",
        "model.experts.has_bias=false objective.balance.sequence=0.01 objective.balance.router_z=0.01",
        "model.experts.num_groups=2 model.experts.group_score=best",
        "model.layers=latent",
        "model.layers=delta,linear,attention model.num_layers=3",
        "model.layers=latent,attention model.attention.query_key_norm=none",
        "model.layers=[{},{distance=254}] data.context=256",
        "model.layers=[{distance=250,num_global=4}] data.context=256",
        "model.layers=[{distance=4000}] base=somewhere",
    ],
    "masked": ["objective.factorization.unit=span objective.factorization.mean_span=5"],
    "classification": ['data.labels=["a", "b"]'],
    "summaries": ["data.source_context=64"],
    "dialogue": ["data.chat.template=qwen3 data.chat.variables.enable_thinking=true"],
}


@pytest.mark.parametrize(("recipe", "pairs"), [(name, pairs) for name in IGNORED for pairs in IGNORED[name]])
def test_a_setting_that_nothing_reads_is_an_error(recipe, pairs):
    with pytest.raises(ConfigError, match="has no effect: ") as error:
        refuse_ignored(override(find_recipe(recipe), pairs.replace('", "', '","').split(" ")))
    assert "\n  try: " in str(error.value)
    key = re.sub(r"(\.\d.*)?=.*", "", str(error.value).splitlines()[0])  # of an item, that of the list
    assert key in {pair.split("=")[0] for pair in pairs.split(" ")}


@pytest.mark.parametrize(("recipe", "pairs"), [(name, pairs) for name in READ for pairs in READ[name]])
def test_where_it_is_read_it_is_none(recipe, pairs):
    refuse_ignored(override(find_recipe(recipe), pairs.replace('", "', '","').split(" ")))


def test_no_recipe_has_a_setting_that_nothing_reads():
    for name in RECIPES:
        refuse_ignored(find_recipe(name))


BASE = run_config(DecoderConfig(width=64, num_layers=2))


@pytest.mark.parametrize(
    "pair",
    [
        "model.width=256",
        "model.num_layers=9",
        "model.ties_embeddings=true",
        "model.rope_base=500",
        "model.attention.cap=3",
        "model.norm.kind=layer",
        "model.experts.num_experts=4",
        "model.layers.0.distance=7",
        "model={width=9}",
        "data.vocab_size=9999",
        "data.tokenizer=nowhere.json",
    ],
)
def test_what_a_base_decides_cannot_be_set_beside_it(pair):
    config = override(replace(find_recipe("dialogue"), base="runs/base"), [] if "{" in pair else [pair])
    with pytest.raises(ConfigError, match="has no effect: base=runs/base decides it\n  allowed: ") as error:
        refuse_beside_base(config, OfBase(BASE.model, 300, BASE.data.vocab_size), settings([pair], RunConfig))
    assert str(error.value).startswith(pair.split("=")[0])


def test_what_is_the_same_or_comes_from_a_recipe_or_is_dropout_is_no_error():
    pairs = [
        "model.width=64",
        "model.layers.0.kind=attention",
        "model.attention.cap=none",
        "model.dropout=0.3",
        "data.vocab_size=300",
        "batch_size=3",
    ]
    config = override(replace(find_recipe("dialogue"), base="runs/base"), pairs)
    base = OfBase(BASE.model, 302, BASE.data.vocab_size)
    refuse_beside_base(config, base, settings(pairs, RunConfig))
    recorded = beside_base(config, base)
    assert recorded.model == replace(BASE.model, dropout=0.3)
    assert (recorded.data.vocab_size, recorded.data.tokenizer) == (BASE.data.vocab_size, None)
    refuse_beside_base(recorded, base, settings_of(to_toml(recorded)))


def test_a_size_beside_a_tokenizer_is_refused_where_it_was_typed():
    config = override(find_recipe("quickstart"), ["data.tokenizer=t.json", "data.vocab_size=999"])
    refuse_typed(config, {}, settings_of(to_toml(config)))
    with pytest.raises(ConfigError, match=r"data\.vocab_size=999 has no effect: data\.tokenizer has its own"):
        refuse_typed(config, settings(["data.vocab_size=999"], RunConfig), {})


ALWAYS = """recipe seed device dtype threads deterministic compile data model base adapter frozen objective optimization
    transfer transfer.width transfer.num_layers transfer.head_width
    recompute mesh mesh.shards mesh.context mesh.tensor mesh.pipeline
    evaluation checkpoint ledger diagnosis diagnosis.alarms samples track prompt heartbeat batch_size micro_batch_size
    max_steps max_tokens model.dropout objective.normalization objective.z_loss objective.balance"""
"""What every run reads, and names of tables."""

ACCEPTED = """data.train data.held_out data.split_on data.context data.over_long data.source_weights data.on_bad_record
    data.columns data.trees data.preference data.unsupervised
    data.packing data.shifts_splits data.chat data.special_tokens adapter objective.factorization objective.kernel
    objective.chunk_size optimization evaluation.stride evaluation.batch_size evaluation.every evaluation.final
    evaluation.max_documents data.sources data.temperature checkpoint ledger.every diagnosis.preflight diagnosis.every
    diagnosis.policies diagnosis.patience diagnosis.memorize diagnosis.webhook diagnosis.rewind_batches
    diagnosis.max_rewinds heartbeat.silence heartbeat.stall heartbeat.patience"""
"""What is read wherever it is accepted: a variant refuses the keys of the others."""

ELSEWHERE = {
    "evaluation.passes",
    "objective.future",
    *(f"parent{name}" for name in ("", ".run", ".step", ".digest", ".changes")),
}
"""Refused by the config itself, or written by `--branch`."""


def test_of_every_key_it_is_known_when_nothing_reads_it():
    """A new key is put into one of these lists, which asks when it has no effect."""
    refused = {pair.split("=")[0] for pairs in IGNORED.values() for each in pairs for pair in each.split(" ")}
    decided_by_base = {key for key in known_keys(RunConfig) if key.startswith("model.")} - {"model.dropout"}
    decided_by_base |= {"data.tokenizer", "data.vocab_size"}
    above = ("adapter.", "checkpoint.", "data.chat.", "objective.factorization.", "optimization.")
    known = {*ALWAYS.split(), *ACCEPTED.split(), *refused, *decided_by_base, *ELSEWHERE}
    assert [key for key in known_keys(RunConfig) if key not in known and not key.startswith(above)] == []
