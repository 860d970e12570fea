"""`thetahat choose` on a trained run: numbers, table, ledger and errors."""

import json

import pytest

from tests.commands import thetahat
from thetahat.ledger.ledger import read_ledger
from thetahat.verbs.choose import choose

SMALL = ["model.width=48", "model.num_layers=1", "model.inner_width=64", "data.context=32", "data.vocab_size=400"]
PAIRS = [
    {"id": f"a-{index}", "source": "agreement", "good": f"The {noun} is here.", "bad": f"The {noun} are here."}
    for index, noun in enumerate(["king", "lord", "man"])
]
COPA = [
    {"query": "The king turned on the faucet, therefore", "gold": 1, "choices": ["he fell.", "water came out."]},
    {"context_options": ["He beat him, because he", "He beat him, because him"], "continuation": "won.", "gold": 0},
    {"context": "To be or not to", "continuation": "be"},
]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choose")
    (folder / "pairs.jsonl").write_text(lines(PAIRS))
    (folder / "copa.jsonl").write_text(lines(COPA))
    train = ["train", *SMALL, "max_steps=3", "batch_size=4", "threads=1", "data.over_long=split", "--out", "run", "-q"]
    assert thetahat(folder, *train).returncode == 0
    return folder


def test_numbers_table_and_ledger_agree(place):
    done = thetahat(place, "choose", "run", "pairs.jsonl", "copa.jsonl", "--out", "ledger.parquet", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["num_questions"] == 6
    assert {rule: one["num_questions"] for rule, one in found["overall"].items()} == {
        "sum": 5,
        "per_token": 5,
        "per_byte": 5,
        "against_alone": 2,
        "greedy": 1,
    }
    assert set(found["sources"]) == {"agreement", "copa.jsonl"}
    shares = [found["sources"][source]["sum"]["accuracy"] for source in ("agreement", "copa.jsonl")]
    assert found["macro"]["sum"]["accuracy"] == pytest.approx(sum(shares) / 2)
    rows, metadata = read_ledger(place / "ledger.parquet")
    assert json.loads(metadata["policy"])["over_long"] == "error"
    assert found["policy"].endswith("over_long=error")
    assert [row.part for row in rows if row.id == "a-0"] == ["choice-0", "choice-1"]
    assert [row.part for row in rows if row.id == "copa.jsonl:1"] == ["choice-0", "choice-1", "alone-0", "alone-1"]
    assert found["gold"]["num_documents"] == 6
    sums = {(row.id, row.part): row.log_prob for row in rows}
    right = sum(sums[record["id"], "choice-0"] > sums[record["id"], "choice-1"] for record in PAIRS)
    assert found["sources"]["agreement"]["sum"]["num_right"] == right
    here = choose(str(place / "run"), [str(place / "pairs.jsonl")])
    assert here.overall["sum"].num_right == right
    table = thetahat(place, "choose", "run", "pairs.jsonl", "copa.jsonl").stdout
    assert "all sources alike" in table
    assert "agreement" in table


def test_escapes_of_the_delimiter_are_read_and_written_down(place):
    (place / "capital.jsonl").write_text(lines([{"query": "the king of", "choices": ["be", "king"], "gold": 0}]))
    found = [
        json.loads(thetahat(place, "choose", "run", "capital.jsonl", "--delimiter", how, "--json", "-q").stdout)
        for how in (r"\n", "\n", r"\\n", " ")
    ]
    nats = [one["gold"]["log_likelihood"] for one in found]
    assert nats[0] == nats[1]
    assert len({*nats}) == 3
    assert [one["policy"].split("delimiter=")[1].split(", ")[0] for one in found] == [
        repr(text) for text in ("\n", "\n", "\\n", " ")
    ]


def test_an_encoder_masks_each_token_of_a_choice_alone(place):
    (place / "text.txt").write_text("\n\n".join(f"the king of {who} was here" for who in ("france", "spain") * 9))
    small = [word for word in SMALL if word != "quickstart" and not word.startswith("data.train")]
    train = [
        "masked",
        "data.train=text.txt",
        "data.held_out=none",
        *small,
        "max_steps=1",
        "batch_size=4",
        "threads=1",
        "--out",
        "masked",
        "-q",
    ]
    assert thetahat(place, "train", *train).returncode == 0
    found = [
        json.loads(thetahat(place, "choose", "masked", "pairs.jsonl", *how, "--json", "-q").stdout)
        for how in ([], ["evaluation.passes=2"])
    ]
    assert "each token masked alone" in found[0]["policy"]
    assert found[0]["gold"]["log_likelihood"] == found[1]["gold"]["log_likelihood"]


def test_what_does_not_fit_is_an_error_or_counted(place):
    (place / "long.jsonl").write_text(lines([{"context": " ".join(["king"] * 90), "continuation": "be"}]))
    refused = thetahat(place, "choose", "run", "long.jsonl")
    assert refused.returncode == 3
    assert "long.jsonl:1" in refused.stderr
    assert "--over-long truncate-left" in refused.stderr
    done = thetahat(place, "choose", "run", "long.jsonl", "--over-long", "truncate-left", "--json")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["contexts_cut"] == 1
    assert found["context_tokens_cut"] > 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run"], 2, "no DATA came"),
        (["run", "pairs.jsonl", "--over-long", "drop"], 2, "error, truncate-left"),
        (["run", "bad.jsonl"], 3, "bad.jsonl:1"),
        (["run", "pairs.jsonl", "--out", "pairs.jsonl"], 7, "nothing is written over"),
    ],
)
def test_errors_say_what_to_type(place, words, code, said):
    (place / "bad.jsonl").write_text('{"good": "a"}\n')
    done = thetahat(place, "choose", *words)
    assert done.returncode == code
    assert said in done.stderr
