"""`thetahat explain`, `thetahat chat` and the rest of what a user of dialogues and pairs types."""

import json

import pytest

from tests import commands

DIALOGUES = [
    {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"number {i}"}] * 2}
    for i in range(30)
]
PAIRS = [{"prompt": f"the number {i}", "completion": f"die Zahl {i}", "source": f"s{i % 2}"} for i in range(40)]
SMALL = [
    *("model.num_layers=1", "model.width=32", "model.num_heads=2", "model.num_kv_heads=1", "model.head_width=16"),
    *("model.inner_width=64", "data.vocab_size=300", "batch_size=4", "max_steps=3", "threads=1", "data.held_out=none"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    for name, records in {"dialogues": DIALOGUES, "pairs": PAIRS}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def thetahat(place, *words, stdin="", code=0):
    done = commands.thetahat(place, *words, stdin=stdin)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_explain_marks_what_is_asked_and_counts_everything(place):
    out = thetahat(place, "explain", "dialogue", "data.train=dialogues.jsonl", *SMALL, "--records", "1")
    assert "[number 0<|im_end|>]" in out.replace("][", "")
    assert "say 0" in out
    assert "30 records: " in out
    found = json.loads(thetahat(place, "explain", "dialogue", "data.train=dialogues.jsonl", *SMALL, "--json"))
    account, tokens = found["account"], found["records"][0]["tokens"]
    assert account["records"] == 30
    assert account["ends_asked"] == 60
    assert account["turn_ends"] == {"<|im_end|>": 60}
    assert sum(group["asked"] for group in account["groups"]) == account["tokens_asked"]
    assert {token["why"] for token in tokens} == {"prompt", "asked", "end"}
    assert account["concentration"]["sequence"]["effective_number"] == pytest.approx(30)


def test_explain_shows_what_a_policy_cuts(place):
    words = ["translation", "data.train=pairs.jsonl", *SMALL, "model.num_encoder_layers=1", "data.context=4"]
    found = json.loads(
        thetahat(
            place,
            "explain",
            *words,
            "data.source_context=64",
            "data.over_long=truncate-right",
            "--json",
            "--records",
            "40",
        )
    )
    assert found["account"]["tokens_cut"] > 0
    assert any(token["why"] == "cut" for record in found["records"] for token in record["tokens"])


def test_pairs_train_score_and_answer(place):
    words = ["translation", "data.train=pairs.jsonl", *SMALL, "model.num_encoder_layers=1", "--out", "runs/pairs"]
    thetahat(place, "train", *words, "-q")
    scored = json.loads(thetahat(place, "score", "runs/pairs", "pairs.jsonl", "--json"))
    assert scored["num_documents"] == 40
    answer = json.loads(thetahat(place, "generate", "runs/pairs", "--prompt", "the number 3", "--json"))
    assert answer["prompt"] == "the number 3"


def test_dialogues_train_score_by_turn_and_chat(place):
    words = ["dialogue", "data.train=dialogues.jsonl", *SMALL, "--out", "runs/talk"]
    thetahat(place, "train", *words, "-q")
    thetahat(place, "score", "runs/talk", "dialogues.jsonl", "--out", "turns.parquet", "-q")
    from pyarrow import parquet

    rows = parquet.read_table(place / "turns.parquet").to_pylist()
    assert {row["part"] for row in rows} == {"turn-1", "turn-3"}
    assert {row["role"] for row in rows} == {"assistant"}
    assert len(rows) == 60
    said = thetahat(place, "chat", "runs/talk", "--max-tokens", "5", "-q", stdin="say 3\nsay 4\n\n")
    assert said.count("\n") >= 2


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["train", "data.train=dialogues.jsonl"], "no template to write it with", 3),
        (["train", "masked", "data.train=dialogues.jsonl", "data.chat.template=chatml"], "is neither masked", 3),
        (["train", "dialogue", "data.train=dialogues.jsonl", "data.chat.template=chatlm"], "neither a known", 2),
        (["train", "objective.factorization.kind=masked"], "model.kind=decoder does not compute", 2),
        (["train", "base=nowhere"], "nowhere is not a model", 4),
        (["train", "adapter.rank=4"], "an adapter without a model to adapt", 2),
        (["train", "classification", "data.train=pairs.jsonl", 'data.labels=["x","y"]'], "is not one of those", 3),
        (["train", "translation", "data.train=bundled:tinyshakespeare"], "a text alone", 3),
    ],
)
def test_what_does_not_fit_is_named_with_what_to_type(place, words, message, code):
    said = thetahat(place, *words, "data.held_out=none", "--out", "runs/none", code=code)
    assert message in said
    assert not (place / "runs/none").exists()
