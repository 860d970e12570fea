"""Graphs that training compiles over batches of other pieces, counted in a process without the tests' checks."""

import json
import random
import subprocess
import sys

import pytest
from torch import nn

from tests.examples import SENTENCE, run_config
from thetahat.core.work import phases
from thetahat.core.work.eager import is_compiled
from thetahat.data.config import DataConfig
from thetahat.objective.config import ObjectiveConfig
from thetahat.run import train as loop
from thetahat.scoring.config import EvaluationConfig

SHAPE = (
    "model.num_layers=3 model.width=32 model.num_heads=2 model.head_width=16 model.inner_width=32 data.vocab_size=300 "
    "data.context=256 data.held_out=hash:0.1 batch_size=4 micro_batch_size=4 max_steps=7 evaluation.every=3 threads=1 "
    "compile=true"
)
SMALL = SHAPE.split()
WORDS = "to be or not that is the question"
DECODER = ["data.train=texts.jsonl", "model.num_kv_heads=2", *SMALL]
PAIRS = ["data.train=pairs.jsonl", "model.num_encoder_layers=2", "model.num_kv_heads=2", *SMALL]
WINDOW = "model.layers=[{kind='attention',distance=20},{kind='attention'}]"
STATES = "model.layers=[{kind='delta'},{kind='state-space'},{kind='linear',decay='learned'}]"
KINDS = (
    *("kind='delta'", "kind='delta',has_decay=false", "kind='delta',conv=7", "kind='state-space'"),
    *("kind='state-space',conv=7", "kind='linear'", "kind='linear',decay='fixed'", "kind='linear',decay='learned'"),
    *("kind='latent',latent_width=16,rotary_width=8", "kind='attention'"),
)
MANY = f"model.layers=[{','.join(f'{{{kind}}}' for kind in KINDS)}]"
CASES = {  # recipe, KEY=VALUE, and the graphs: one for each kind of block, one for the kernel of the objective
    "packed": ("quickstart", DECODER, 2),
    "windows": ("quickstart", [*DECODER, WINDOW, "model.attention.sinks=learned"], 2),
    "ten kinds of layers": ("quickstart", [*DECODER, MANY, "model.num_layers=10"], 11),
    "states": ("quickstart", [*DECODER, STATES], 4),
    "tables and shared keys": (
        "quickstart",
        [*DECODER, "model.value_embeddings={}", "model.embedding.smear={}", "model.attention.sharing=2"],
        4,
    ),
    "latents": ("quickstart", [*DECODER, "model.layers=[{kind='latent',latent_width=16,rotary_width=8}]"], 2),
    "further tokens": ("quickstart", [*DECODER, "model.num_future=2", "objective.future=[0.5,0.2]"], 3),
    "encoder": ("masked", ["data.train=texts.jsonl", "model.num_kv_heads=2", *SMALL], 3),
    "encoder-decoder": ("translation", PAIRS, 3),
    "dialogues": ("dialogue", ["data.train=dialogues.jsonl", *DECODER[1:]], 3),
}
SCRIPT = """
import functools, json, sys
from pathlib import Path
import torch
torch.compile = functools.partial(torch.compile, backend="eager")  # needs no C compiler
from thetahat.core.config import override
from thetahat.recipes.catalogue import RECIPES
from thetahat.run.train import train
for name, (recipe, pairs, _) in json.loads(sys.argv[1]).items():
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    reports = train(override(RECIPES[recipe](), pairs), Path(name))
    graphs = [counters["stats"]["unique_graphs"] for _ in reports]
    print(json.dumps([name, graphs, dict(counters["graph_break"])]))
"""


def texts(chance, sizes):
    return [" ".join(chance.choice(WORDS.split()) for _ in range(n)) for n in sizes]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.slow
def test_batches_of_other_pieces_are_read_by_the_graphs_of_the_first_ones(tmp_path):
    """A graph a kind of block, where need be at first for the sizes of one batch and then for any; none is broken."""
    chance = random.Random(0)
    sizes = [chance.choice([3, 9, 30, 70, 140, 240]) for _ in range(400)]
    write(tmp_path / "texts.jsonl", [{"text": text} for text in texts(chance, sizes)])
    short = texts(chance, [size // 3 + 1 for size in sizes])
    pairs = list(zip(short[::2], short[1::2], strict=True))
    write(tmp_path / "pairs.jsonl", [{"prompt": one, "completion": other} for one, other in pairs])
    told = [[{"role": "user", "content": one}, {"role": "assistant", "content": other}] for one, other in pairs]
    write(
        tmp_path / "dialogues.jsonl",
        [
            {"messages": (one + other)[: chance.choice([2, 4])]}
            for one, other in zip(told[::2], told[1::2], strict=True)
        ],
    )
    typed = [sys.executable, "-c", SCRIPT, json.dumps(CASES)]
    output = subprocess.run(typed, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert output.returncode == 0, output.stderr[-3000:]
    found = [json.loads(line) for line in output.stdout.splitlines()]
    assert {name: breaks for name, _, breaks in found if breaks} == {}
    assert {name: graphs[-1] for name, graphs, _ in found} == {name: number for name, (*_, number) in CASES.items()}
    assert {name: graphs for name, graphs, _ in found if graphs[2] != graphs[-1]} == {}


def test_the_first_step_says_that_it_compiles_and_an_evaluation_on_a_cpu_is_of_what_is_written(tmp_path, monkeypatch):
    """Nothing is compiled here: blocks are only told so."""
    seen = []

    def noting(name):
        plain = getattr(loop, name)

        def note(first, *others):
            model = first if isinstance(first, nn.Module) else first.model
            seen.append((name, phases.current() and phases.current().name, is_compiled(model)))
            return plain(first, *others)

        monkeypatch.setattr(loop, name, note)

    monkeypatch.setattr(nn.Module, "compile", lambda self: setattr(self, "_compiled_call_impl", self._call_impl))
    noting("step")
    noting("score_corpus")
    (tmp_path / "text.txt").write_text(f"{SENTENCE} " * 40)
    data = DataConfig(
        train=str(tmp_path / "text.txt"), context=32, over_long="split", vocab_size=270, held_out="tail:0.1"
    )
    usual = {"objective": ObjectiveConfig(kernel="reference"), "evaluation": EvaluationConfig(every=1)}
    list(loop.train(run_config(data=data, compile=True, max_steps=2, **usual), tmp_path / "run"))
    evaluated = ("score_corpus", None, False)
    assert seen == [("step", "compiling blocks", True), evaluated, ("step", None, True), evaluated]
