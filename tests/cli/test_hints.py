"""A key, an option or a command that does not exist is answered with the one that was meant."""

import re
import shlex
import sys

import pytest
import typer

from thetahat.cli.hints import refuse_names_of_others
from thetahat.cli.main import app, main
from thetahat.cli.names import COMMANDS, MEANT, NAMES
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.core.schema import known_keys
from thetahat.data.config import data_of
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.config import RunConfig

RATE = "optimization.matrices.learning_rate=3e-4; optimization.embeddings.learning_rate"
PLAIN = {
    "data.columns=body": "data.columns.text=body",
    "data.chat=chatml": "data.chat.template=chatml",
    "data.sources=a.jsonl": "data.sources.NAME.path=a.jsonl",
    "data.source_weights=3": "data.source_weights.NAME=3",
    "data=my.txt": "data.train=my.txt",
    "evaluation=100": "evaluation.every=100",
    "adapter=8": "adapter.rank=8",
    "adapter=lora": "adapter.rank=...",
    "model.mlp=gelu": "model.mlp.activation=gelu",
    "objective=masked": "objective.factorization.kind=masked",
    "diagnosis=off": "diagnosis.preflight=off",
}
"""A plain value where a table or a list is expected, and what to type."""

PAIRS = {
    # misspelled, shortened, or in the wrong place
    "contxt=512": "data.context=512",
    "context=512": "data.context=512",
    "data.contex=512": "data.context=512",
    "batchsize=8": "batch_size=8",
    "max_step=9": "max_steps=9",
    "model.num_layer=2": "model.num_layers=2",
    "num_heads=2": "model.num_heads=2",
    "model.context=512": "data.context=512",
    "optimization.warmup_steps=9": "optimization.schedule.warmup_steps=9",
    "optimizaton.clip=1": "optimization.clip=1",
    "data.batch_size=8": "batch_size=8 or evaluation.batch_size=8",
    "keep=3": "checkpoint.keep=3",
    "tokenizer=my.json": "data.tokenizer=my.json",
    "factorization.kind=masked": "objective.factorization.kind=masked",
    "adapter.ranks=4": "adapter.rank=4",
    # other trainers: transformers, TRL
    "lr=3e-4": RATE,
    "optimization.lr=3e-4": RATE,
    "learning_rate=3e-4": RATE,
    "num_train_epochs=3": "max_steps=N, for one epoch",
    "per_device_train_batch_size=8": "micro_batch_size=8",
    "gradient_accumulation_steps=4": "batch_size=ROWS of a whole step",
    "warmup_ratio=0.03": "optimization.schedule.warmup_steps=N, in steps: 0.03 times max_steps",
    "warmup_steps=10": "optimization.schedule.warmup_steps=10",
    "weight_decay=0.1": "optimization.matrices.weight_decay=0.1",
    "max_grad_norm=1.0": "optimization.clip=1.0",
    "lr_scheduler_type=linear": "optimization.schedule.kind=cosine, wsd or constant",
    "bf16=true": "dtype=bfloat16",
    "fp16=true": "dtype=bfloat16; float16",
    "gradient_checkpointing=true": "objective.chunk_size=4096",
    "logging_steps=10": "nothing: every step has a line in metrics.jsonl",
    "save_steps=100": "checkpoint.every=100",
    "eval_steps=100": "evaluation.every=100",
    "save_total_limit=2": "checkpoint.keep=2",
    "max_seq_length=512": "data.context=512",
    "packing=true": "data.packing=best-fit or none",
    "output_dir=out": "--out out",
    "model_name_or_path=gpt2": "base=gpt2",
    # nanoGPT
    "n_layer=6": "model.num_layers=6",
    "n_head=6": "model.num_heads=6",
    "n_embd=384": "model.width=384",
    "block_size=256": "data.context=256",
    "max_iters=5000": "max_steps=5000",
    "eval_interval=250": "evaluation.every=250",
    "dropout=0.1": "model.dropout=0.1",
    "beta2=0.95": "optimization.embeddings.beta2=0.95",
    "grad_clip=1": "optimization.clip=1",
    "decay_lr=true": "optimization.schedule.kind=cosine",
    "warmup_iters=100": "optimization.schedule.warmup_steps=100",
    "min_lr=6e-5": "optimization.schedule.final=SHARE",
    "dataset=my.txt": "data.train=my.txt",
    "init_from=gpt2": "base=gpt2",
    "out_dir=out": "--out out",
    # lm-eval, Axolotl, LLaMA-Factory
    "model_args=pretrained=x": "thetahat lm-eval",
    "tasks=piqa": "thetahat lm-eval",
    "lora_r=8": "adapter.rank=8",
    "lora_alpha=16": "adapter.alpha=16",
    "lora_target_modules=q_proj": "adapter.targets=",
    "cutoff_len=512": "data.context=512",
    "sequence_len=512": "data.context=512",
    "num_epochs=3": "max_steps=N",
}
OPTIONS = {
    "train --lr 3e-4": RATE,
    "train --learning-rate=3e-4": RATE,
    "train --batch-size 8": "batch_size=8",
    "train --epochs 3": "max_steps=N",
    "train --output_dir x": "--out x",
    "train --max_steps 5": "--max-steps 5",
    "train --data.train my.txt": "data.train=my.txt",
    "train --bf16": "dtype=bfloat16",
    "train --seed 1": "seed=1",
    "explain --context 9": "data.context=9",
    "score x --context 9": "context=9",
    "score x --batch_size 9": "batch_size=9",
    "compare --bogus": "thetahat compare --help",
    "trian": "thetahat train",
    "tokenizer trian": "thetahat tokenizer train",
    "evaluate": "thetahat score MODEL DATA",
    "frobnicate": "thetahat --help",
}


def cure(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["thetahat", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    return capsys.readouterr().err.partition("\n  try: ")[2].strip()


@pytest.mark.parametrize("pair", PAIRS)
def test_a_key_that_does_not_exist_is_answered_with_the_one_that_was_meant(monkeypatch, capsys, pair):
    assert cure(monkeypatch, capsys, "train", pair).startswith(PAIRS[pair])


@pytest.mark.parametrize("words", OPTIONS)
def test_an_option_or_a_command_that_does_not_exist_is_answered_so_too(monkeypatch, capsys, words):
    assert cure(monkeypatch, capsys, *shlex.split(words)).startswith(OPTIONS[words])


def test_where_nothing_is_near_nothing_is_guessed(monkeypatch, capsys):
    assert cure(monkeypatch, capsys, "train", "adapter.x=3") == ""
    assert cure(monkeypatch, capsys, "train", "zzzz=3") == ""


def test_what_is_advised_exists():
    policy = "diagnosis.policies.no-improvement"
    known = {*known_keys(RunConfig), "data.columns.text", "data.columns.prompt", policy}
    lists = [told for told in NAMES if "[{kind" in told]
    assert all(override(find_recipe("quickstart"), [told.replace("{value}", "8")]) for told in lists)
    plain = [re.sub(r"\[\{kind.*\}\]", "", told) for told in NAMES]
    named = {key for told in plain for key in re.findall(r"([a-z_.0-9][a-z_.0-9-]*)=", told)}
    named |= {
        key for told in plain for key in re.findall(r"\b((?:optimization|data|model)\.[a-z_.0-9]+[a-z0-9]\b)", told)
    }
    assert named - known == set()
    commands = typer.main.get_command(app).commands
    advised = re.findall(r"thetahat ([a-z-]+)", " ".join([*NAMES, *COMMANDS.values()]))
    assert {name for name in advised if not name.startswith("-")} - set(commands) == set()


def test_no_name_of_another_trainer_is_listed_twice_or_is_a_key_of_ours():
    names = [name for told in NAMES.values() for name in told]
    assert len(names) == len(set(names))
    assert set(MEANT) & set(known_keys(RunConfig)) == set()


def test_a_key_below_a_free_name_is_no_name_of_another_trainer():
    refuse_names_of_others(
        ["data.sources.b.max_epochs=2", "data.columns.label=dataset", "data.source_weights.epochs=2"]
    )


@pytest.mark.parametrize("pair", PLAIN)
def test_a_plain_value_in_place_of_a_table_is_answered_with_the_key_in_it(pair):
    with pytest.raises(ConfigError, match="does not fit") as error:
        override(find_recipe("quickstart"), [pair])
    assert error.value.cure == PLAIN[pair]
    if pair.startswith("data.") and "label" not in pair and "weights" not in pair:
        with pytest.raises(ConfigError) as asked:  # where a trained model is asked, keys have the same names
            data_of([pair])
        assert asked.value.cure == PLAIN[pair]
