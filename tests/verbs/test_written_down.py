"""Every option and key that changes a number is written down beside it: in a ledger, or in what `--json` prints.

The options are read off the commands and the keys off the config, so a new one fails here until it is in a list.
"""

import inspect
import json

import pytest

from tests.examples import texts_of
from thetahat.cli import (
    choose as choose_command,
    compare as compare_command,
    score as score_command,
    select as select_command,
)
from thetahat.core.config import override
from thetahat.core.schema import known_keys
from thetahat.ledger.ledger import read_ledger
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.config import InferenceConfig
from thetahat.run.train import train
from thetahat.verbs.choose import choose
from thetahat.verbs.compare import compare
from thetahat.verbs.load import load
from thetahat.verbs.score import score
from thetahat.verbs.select import select

SHAPE = ["model.width=16", "model.num_layers=1", "model.inner_width=24", "data.context=32", "data.vocab_size=300"]
KEYS = {  # to how a model is asked; what is in NUMBERLESS changes no number
    "dtype": "dtype=bfloat16",
    "threads": "threads=2",
    "deterministic": "deterministic=true",
    "evaluation.stride": "evaluation.stride=3",
    "evaluation.batch_size": "batch_size=3",
    "evaluation.passes": "evaluation.passes=2",  # of a masked model
}
NUMBERLESS = {"device", "evaluation"}  # a CPU has no second device; a table of keys
ALWAYS = {"words", "quiet", "json", "out"}  # what is asked, and where the answer is put


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(place / "cache"))
        texts = texts_of(16)
        (place / "text.txt").write_text("\n".join(texts))
        (place / "other.txt").write_text("\n".join(texts_of(8, 5)))
        asked = [{"query": text[:120] + " why", "choices": ["the sea", "cold"], "gold": 0} for text in texts[:4]]
        (place / "asked.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in asked))
        data = [f"data.train={place / 'text.txt'}", "data.held_out=none", "data.split_on=\\n", "data.over_long=split"]
        runs = ["threads=1", "device=cpu", "max_steps=2", "checkpoint.every=1", "checkpoint.keep=9", "batch_size=4"]
        for name, recipe in (("run", "quickstart"), ("encoder", "masked")):
            list(train(override(find_recipe(recipe), [*SHAPE, *data, *runs, "evaluation.every=0"]), place / name))
        yield place


def texts(place):
    return [str(place / "text.txt")]


def written(place, name, found):
    """The numbers and what a ledger says of itself, with the ledger's own name left out."""
    rows, metadata = read_ledger(place / name)
    (place / name).unlink()
    return [(row.id, row.part, row.log_prob) for row in rows], metadata


def scored(place, *pairs, run="run"):
    found = score(load(str(place / run), ("threads=1", *pairs)), texts(place), out=place / "a.parquet")
    return written(place, "a.parquet", found)


def chosen(place, *pairs, run="run", **options):
    loaded = load(str(place / run), ("threads=1", *pairs))
    options = {"over_long": "truncate-left", "out": place / "b.parquet"} | options
    return written(place, "b.parquet", choose(loaded, [str(place / "asked.jsonl")], **options))


def test_every_option_and_key_is_in_a_list():
    options = {name: set(inspect.signature(command).parameters) - ALWAYS for name, command in COMMANDS.items()}
    assert options == {
        "score": {"tokens"},  # another table of the same numbers
        "choose": {"delimiter", "over_long", "chat"},  # chat: of models that were trained on dialogues
        "select": {"report", "averages", "save"},  # averages: the candidates, which are listed; save: writes the best
        "compare": {"html", "top", "lower_bound"},  # a page; how many cases are listed; a bound where bytes are lost
    }
    assert set(known_keys(InferenceConfig)) == KEYS.keys() | NUMBERLESS


COMMANDS = {
    "score": score_command.score,
    "choose": choose_command.choose,
    "select": select_command.select,
    "compare": compare_command.compare,
}


@pytest.mark.parametrize("ask", [scored, chosen])
def test_ledgers_say_every_key_that_changes_a_number(place, ask):
    for key, pair in {**KEYS, "data.split_on": "data.split_on=none"}.items():
        run = "encoder" if "passes" in key else "run"
        pairs = ([], [pair]) if ask is scored or key != "data.split_on" else ([], [])
        (numbers, says), (others, say_others) = (ask(place, *some, run=run) for some in pairs)
        must_say = pairs[1] and not (ask is chosen and key == "evaluation.passes")  # each token of a choice is alone
        assert (says != say_others) == bool(must_say), key
        assert must_say or numbers == others, key


def test_ledgers_of_choices_say_their_options(place):
    (numbers, says), *others = (chosen(place, **options) for options in ({}, {"delimiter": "\n"}, {"delimiter": "; "}))
    assert len({says["policy"], *(say["policy"] for _, say in others)}) == 3
    assert all(numbers != other for other, _ in others)


def test_what_chooses_a_checkpoint_is_said(place):
    def of(*pairs, **options):
        return select(str(place / "run"), texts(place), overrides=["threads=1", *pairs], **options).to_dict()

    plain, averaged, reported = of(), of(averages=1), of(report=[str(place / "other.txt")])
    assert [one["name"] for one in plain["candidates"]] != [one["name"] for one in averaged["candidates"]]
    assert plain["metadata"]["report"] != reported["metadata"]["report"]
    assert reported["metadata"]["report_paths"] == str(place / "other.txt")
    for pair in ("dtype=bfloat16", "evaluation.stride=3"):
        other = of(pair)
        assert other["candidates"] != plain["candidates"], pair
        assert other["metadata"]["policy"] != plain["metadata"]["policy"], pair


def test_a_comparison_says_how_both_were_scored(place):
    run = str(place / "run")
    plain, other = (
        compare(f"{run}@1", run, texts(place), overrides=["threads=1", *pairs]).to_dict()
        for pairs in ([], ["evaluation.stride=3"])
    )
    assert plain["bits_per_byte_a"] != other["bits_per_byte_a"]
    assert plain["policy_a"] == plain["policy_b"] != other["policy_a"] == other["policy_b"]
