"""No command waits for a module that it does not use: looking things up needs no torch, training no compiler."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "pyarrow", "tokenizers", "scipy", "safetensors")
PARSER = ("pydantic",)  # of values; a flag has none
UNUSED = (
    *("torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy"),
    *("transformers", "matplotlib", "bokeh", "plotext", "jinja2", "fsspec", "tensorboard"),
)
"""What neither training nor scoring text of a local file uses on a CPU: the first line alone takes three seconds."""
FLAGS_ONLY = ("--help", "recipes", "recipes --json", "templates", "optimizers")
LOOKED_UP = (
    *("--help", "train --help", "recipes", "keys", "keys data", "runs runs", "templates", "optimizers"),
    *("completion bash", "complete -- train model.kind="),
)
TRAINED = (
    "train my.txt --out run max_steps=1 data.held_out=none data.vocab_size=300 data.context=16 batch_size=2 "
    "model.num_layers=1 model.width=16 model.num_heads=1 model.num_kv_heads=1 model.head_width=16 model.inner_width=32",
    "score run other.txt",
)
MISTYPED = (
    *("trian", "train --lr 1", "train lr=1", "train nosuch", "train model.widht=1", "train nosuch.toml"),
    *("train --branch nosuch max_steps=2", "train --max-minutes -1", "explain lr=1", "verify nosuch"),
    *("score", "score nosuch", "compare a b", "classify nosuch", "classify nosuch TEXT", "choose nosuch a.jsonl"),
    *("generate", "generate a b", "generate nosuch", "chat nosuch", "select nosuch", "influence nosuch"),
    *("merge nosuch", "export nosuch out", "import nosuch out", "tokenizer train my.txt"),
)
RUNNER = """
import contextlib, io, json, sys
unwanted = json.loads(sys.argv[2])
from thetahat.cli.main import main
for line in json.loads(sys.argv[1]):
    sys.argv = ["thetahat", *line.split()]
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
    there = [name for name in unwanted if name in sys.modules]
    print(json.dumps([line, code or 0, there, said.getvalue()]))
    if there:
        break
"""


def assert_no_import(lines, unwanted, codes, folder):
    typed = [sys.executable, "-c", RUNNER, json.dumps(lines), json.dumps(unwanted)]
    output = subprocess.run(typed, capture_output=True, text=True, check=True, cwd=folder).stdout
    seen = [json.loads(line) for line in output.splitlines()]
    assert {line: there for line, _, there, _ in seen if there} == {}
    assert {line: (code, said) for line, code, _, said in seen if code not in codes} == {}
    assert [line for line, *_ in seen] == [*lines]


def test_flags_need_no_parser_of_values(tmp_path):
    assert_no_import(FLAGS_ONLY, (*HEAVY, *PARSER), {0}, tmp_path)


def test_training_and_scoring_import_no_compiler(tmp_path):
    (tmp_path / "my.txt").write_text("Of man's first disobedience, and the fruit of that forbidden tree. " * 20)
    (tmp_path / "other.txt").write_text("Whose mortal taste brought death into the world.")
    assert_no_import(TRAINED, UNUSED, {0}, tmp_path)


@pytest.mark.parametrize(("lines", "codes"), [(LOOKED_UP, {0}), (MISTYPED, {2, 4})], ids=["looked up", "mistyped"])
def test_no_tensor_is_waited_for(lines, codes, tmp_path):
    (tmp_path / "runs").mkdir()
    assert_no_import(lines, HEAVY, codes, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]  # nothing was made on the way
