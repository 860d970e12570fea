"""What needs no tensor does not wait for torch: looking things up, and being told of a typing error."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "pyarrow", "tokenizers", "scipy", "safetensors")
LOOKED_UP = (
    *("--help", "train --help", "recipes", "keys", "keys data", "runs runs", "templates", "optimizers"),
    *("completion bash", "complete -- train model.kind="),
)
MISTYPED = (
    *("trian", "train --lr 1", "train lr=1", "train nosuch", "train model.widht=1", "train nosuch.toml"),
    *("train --branch nosuch max_steps=2", "train --max-minutes -1", "explain lr=1", "verify nosuch"),
    *("score", "score nosuch", "compare a b", "classify nosuch", "classify nosuch TEXT", "choose nosuch a.jsonl"),
    *("generate", "generate a b", "generate nosuch", "chat nosuch", "select nosuch", "influence nosuch"),
    *("merge nosuch", "export nosuch out", "import nosuch out", "tokenizer train my.txt"),
)
RUNNER = f"""
import contextlib, io, json, sys
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
    there = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([line, code or 0, there, said.getvalue()]))
    if there:
        break
"""


@pytest.mark.parametrize(("lines", "codes"), [(LOOKED_UP, {0}), (MISTYPED, {2, 4})], ids=["looked up", "mistyped"])
def test_no_tensor_is_waited_for(lines, codes, tmp_path):
    (tmp_path / "runs").mkdir()
    typed = [sys.executable, "-c", RUNNER, json.dumps(lines)]
    output = subprocess.run(typed, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    seen = [json.loads(line) for line in output.splitlines()]
    assert {line: there for line, _, there, _ in seen if there} == {}
    assert {line: (code, said) for line, code, _, said in seen if code not in codes} == {}
    assert [line for line, *_ in seen] == [*lines]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]  # nothing was made on the way
