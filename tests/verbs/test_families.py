"""The proof, over every factorization: the same objective however a batch is cut, in every family of models."""

import json

import pytest
from msgspec.structs import replace

from tests.examples import WORDS, run_config
from tests.verbs.test_verify import checks_of
from thetahat.data.config import ChatConfig, DataConfig
from thetahat.distribution.world import World
from thetahat.model.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig
from thetahat.objective.config import (
    Causal,
    Conditional,
    FillInTheMiddle,
    Labels,
    Masked,
    ObjectiveConfig,
    Prefix,
    Spans,
)
from thetahat.run.prepare import prepare
from thetahat.verbs.explain import account

SHAPE = {"num_layers": 2, "width": 32, "num_heads": 4, "num_kv_heads": 2, "head_width": 16, "inner_width": 64}
DECODER, ENCODER = DecoderConfig(**SHAPE), EncoderConfig(**SHAPE)
BOTH = EncoderDecoderConfig(**SHAPE, num_encoder_layers=1)


def sentence(number, longest):
    return " ".join(WORDS[(number * 7 + j) % len(WORDS)] for j in range(1 + number * 5 % longest))


TEXTS = [{"text": sentence(i, 11)} for i in range(24)]
PAIRS = [{"prompt": sentence(i, 9), "completion": sentence(i + 3, 7), "weight": 0.5 + i % 3} for i in range(24)]
LABELS = [{"text": sentence(i, 9), "label": ("sea", "land", "air")[i % 3]} for i in range(24)]


def dialogue(number):
    turns = [("user", sentence(number, 5)), ("assistant", f"<think>\n{sentence(number + 1, 4)}\n</think>\n\nyes")]
    turns += [("user", sentence(number + 2, 6)), ("assistant", sentence(number + 3, 5)), ("user", "and"), turns[1]]
    messages = [{"role": role, "content": text} for role, text in turns]
    messages[1]["weight"] = 0.5 + number % 3
    return {"messages": messages} if number % 4 else {"messages": messages[:3], "answers": ["yes", {"content": "no"}]}


DIALOGUES = [dialogue(i) for i in range(12)]

FAMILIES = {
    "causal on texts": (DECODER, Causal(), TEXTS),
    "causal on pairs": (DECODER, Causal(), PAIRS),
    "prefix on pairs": (DECODER, Prefix(), PAIRS),
    "prefix on texts": (DECODER, Prefix(), TEXTS),
    "infilling of texts": (DECODER, FillInTheMiddle(rate=0.7), TEXTS),
    "infilling beside dialogues that branch": (DECODER, FillInTheMiddle(rate=1.0), [*TEXTS, *DIALOGUES], "qwen3"),
    "masked tokens": (ENCODER, Masked(), TEXTS),
    "masked words": (ENCODER, Masked(unit="word", replace="80-10-10"), TEXTS),
    "masked spans": (ENCODER, Masked(unit="span"), PAIRS),
    "labels": (ENCODER, Labels(), LABELS),
    "conditional": (BOTH, Conditional(), PAIRS),
    "spans": (BOTH, Spans(), TEXTS),
    "causal on dialogues": (DECODER, Causal(), DIALOGUES, "chatml"),
    "causal on dialogues that branch": (DECODER, Causal(), DIALOGUES, "qwen3"),
    "prefix on dialogues that branch": (DECODER, Prefix(), DIALOGUES, "qwen3"),
    "conditional on dialogues": (BOTH, Conditional(), DIALOGUES, "chatml"),
}


def config_of(name, tmp_path, normalization="token", **changes):
    model, factorization, records, *template = FAMILIES[name]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    chat = ChatConfig(template=template[0]) if template else None
    room = {"context": 256 if template else 40}
    room |= {"source_context": 256} if template and factorization.layout.has_source else {}
    data = DataConfig(train=str(path), held_out="none", vocab_size=320, chat=chat, **room)
    objective = ObjectiveConfig(factorization=factorization, normalization=normalization)
    return run_config(model, data=data, objective=objective, batch_size=8, **changes)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_equivalence_holds_in_every_family(name, dtype, tmp_path):
    config = config_of(name, tmp_path, dtype=dtype)
    found = checks_of(config, prepare(config, tmp_path, World()), dtype)
    assert {each: one.holds for each, one in found.items()} == dict.fromkeys(found, True)
    if dtype != "float64":  # the rounding that the bounds allow for is no more than these sums explain, on any CPU
        assert found["to-float64"].max_relative_gradient_error <= 1e-5


@pytest.mark.parametrize("normalization", ["sequence", "turn", "dialogue", "length", "sum"])
@pytest.mark.parametrize("name", ["conditional", "causal on dialogues that branch"])
def test_every_normalization_is_exact_whatever_the_weights(name, normalization, tmp_path):
    config = config_of(name, tmp_path, normalization)
    found = checks_of(config, prepare(config, tmp_path, World()), "float64")
    assert {each: one.holds for each, one in found.items()} == dict.fromkeys(found, True)
    assert "prefix-by-prefix" in found


@pytest.mark.parametrize(("name", "num_ends"), [("masked tokens", 0), ("spans", 0), ("causal on texts", 24)])
def test_the_account_counts_an_end_as_asked_where_one_is(name, num_ends, tmp_path):
    prepared = prepare(config_of(name, tmp_path), tmp_path, World())
    found, num_texts = account(prepared), prepared.train.num_tokens - 24
    assert (found.ends_asked, found.tokens_cut) == (num_ends, 0)
    assert found.tokens_asked == num_texts + num_ends == sum(group["asked"] for group in found.groups)
    assert sum(group["cut"] for group in found.groups) == 0


def test_a_kind_of_model_that_does_not_compute_a_factorization_is_refused():
    from thetahat.core.errors import ConfigError

    with pytest.raises(ConfigError, match=r"model.kind=decoder does not compute objective.factorization.kind=masked"):
        replace(run_config(DECODER), objective=ObjectiveConfig(factorization=Masked()))
