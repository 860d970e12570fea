"""The package stays small, plain and safe to load: what a reader is promised, counted.

A function's lines are those of its code, from `def` to its end without the docstring.
"""

import ast
import importlib
import pkgutil
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import thetahat
from thetahat.core.axes import AXES
from thetahat.core.config import Config
from thetahat.core.schema import alternatives, fields

SOURCE = Path(__file__).parents[1] / "src" / "thetahat"
FILES = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
TREES = {name: ast.parse(text) for name, text in FILES.items()}
MODULES = [module.name for module in pkgutil.walk_packages([str(SOURCE)], "thetahat.") if "__main__" not in module.name]

SHAPED = {
    "Float",
    "Int",
    "Bool",
    "Shaped",
    "Num",
    "Integer",
    "Inexact",
    "Complex",
    "UInt8",
    "Int32",
    "Int64",
    "Float32",
}
SHAPED |= {"Float64", "BFloat16", "Float16", "UInt", "Real", "Key"}
UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
SAFE_NAMES = {"yaml.safe_load", "yaml.YAMLError"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "torch.load",
    "torch.save",
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "recv_object_list",
    "scatter_object_list",
    "send_object_list",
}
UNSAFE_KEYWORDS = {"allow_pickle", "trust_remote_code", "weights_only"}
LISTS = {"cli", "verbs", "recipes", "interop/families"}
BANNED = re.compile(r"Manager|Handler|Helper|Processor|Wrapper|(^|_)(utils?|helpers?|misc|common)(_|$)")


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield f"{file}:{getattr(node, 'lineno', 0)}", node


def functions() -> list[tuple[str, ast.FunctionDef]]:
    return [(f"{where} {node.name}", node) for where, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef)]


def num_lines(function: ast.FunctionDef) -> int:
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def num_parameters(function: ast.FunctionDef) -> int:
    given = function.args
    names = [argument.arg for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs]]
    return len([name for name in names if name not in {"self", "cls"}]) + sum(map(bool, (given.vararg, given.kwarg)))


def dotted(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def test_no_file_is_long_and_half_of_them_are_short():
    lengths = {name: text.count("\n") for name, text in FILES.items() if not name.endswith("__init__.py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
    assert statistics.median(lengths.values()) <= 120


def test_no_folder_holds_more_than_fifteen_files_beside_each_other():
    """But for lists of parallel things: commands, verbs, recipes, families of models."""
    folders = Counter(Path(name).parent.as_posix() for name in FILES if not name.endswith("__init__.py"))
    assert {name: number for name, number in folders.items() if number > 15 and name not in LISTS} == {}


def test_no_function_is_long_and_most_are_short():
    lengths = {where: num_lines(function) for where, function in functions()}
    assert {where: length for where, length in lengths.items() if length > 60} == {}
    assert statistics.median(lengths.values()) <= 8
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= 30


def test_no_function_takes_more_than_six_parameters():
    crowded = {where: num_parameters(function) for where, function in functions()}
    assert {where: number for where, number in crowded.items() if number > 6} == {}


def shapes() -> Iterator[tuple[str, str]]:
    for where, node in nodes(ast.Subscript):
        if dotted(node.value).rsplit(".", 1)[-1] in SHAPED and isinstance(node.slice, ast.Tuple):
            *_, shape = node.slice.elts
            if isinstance(shape, ast.Constant) and isinstance(shape.value, str):
                yield where, shape.value


def test_there_is_one_alphabet_of_axes():
    """A letter of core/axes.py, or a small one for a part of that axis: "n D" is n of the N tokens; "*axes": any."""
    strangers = [
        f"{where} {letter} in {shape!r}"
        for where, shape in shapes()
        for letter in re.findall(r"[A-Za-z]\w*", re.sub(r"\*axes\b", "", shape))
        if letter.upper() not in AXES or len(letter) > 1
    ]
    assert strangers == []
    assert len(list(shapes())) > 20


def test_names_say_what_a_thing_is():
    names = [(where, node.name) for where, node in nodes(ast.ClassDef, ast.FunctionDef)]
    names += [(file, Path(file).stem) for file in FILES] + [(file, Path(file).parent.name) for file in FILES]
    assert [f"{where} {name}" for where, name in names if BANNED.search(name)] == []


def test_nothing_that_is_loaded_can_run_code():
    imports = [(where, alias.name) for where, node in nodes(ast.Import) for alias in node.names]
    named = [(where, node.module or "", alias) for where, node in nodes(ast.ImportFrom) for alias in node.names]
    imports += [(where, f"{module}.{alias.name}") for where, module, alias in named]
    unsafe = [(where, name) for where, name in imports if name.split(".")[0] in UNSAFE_MODULES]
    assert [f"{where} {name}" for where, name in unsafe if name not in SAFE_NAMES] == []
    called = [(where, dotted(node.func)) for where, node in nodes(ast.Call)]
    unsafe = [
        (where, name) for where, name in called if {name, name.rsplit(".", 1)[-1]} & (UNSAFE_CALLS | {"load_module"})
    ]
    assert [f"{where} {name}" for where, name in unsafe if not name.endswith(".eval")] == []  # model.eval() is a mode
    assert [f"{where} {node.arg}=" for where, node in nodes(ast.keyword) if node.arg in UNSAFE_KEYWORDS] == []


def test_no_target_is_a_sentinel_and_no_mean_is_taken_early():
    negative = [(where, node) for where, node in nodes(ast.UnaryOp) if isinstance(node.op, ast.USub)]
    assert [
        where for where, node in negative if isinstance(node.operand, ast.Constant) and node.operand.value == 100
    ] == []
    means = [(where, node) for where, node in nodes(ast.keyword) if node.arg in {"reduction", "ignore_index"}]
    assert [
        f"{where} {ast.unparse(node)}" for where, node in means if ast.unparse(node.value) not in {"'none'", "'sum'"}
    ] == []


def test_only_the_command_line_prints_and_quits():
    """But for the second Ctrl-C, which does not wait, and a rank in a collective that hangs: nothing else ends it."""
    ends = {"print", "input", "quit", "exit", "sys.exit", "os._exit"}
    called = [(where, dotted(node.func)) for where, node in nodes(ast.Call) if not where.startswith("cli/")]
    assert [
        f"{where} {name}"
        for where, name in called
        if name in ends and not where.startswith(("run/signals.py", "distribution/heartbeat.py"))
    ] == []


def test_annotations_of_tensors_are_not_strings():
    """Otherwise no shape is checked."""
    late = [where.split(":")[0] for where, node in nodes(ast.ImportFrom) if node.module == "__future__"]
    assert [file for file in late if "jaxtyping" in FILES[file]] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_without_extras(module):
    importlib.import_module(module)


def configs(kind: type = Config) -> Iterator[type]:
    for module in MODULES:
        importlib.import_module(module)
    for below in kind.__subclasses__():
        if below.__module__.startswith("thetahat."):
            yield below
        yield from configs(below)


def test_a_config_value_that_may_be_none_is_none_by_default():
    """TOML has no null: what is left out must come back as the None that it was."""
    wrong = [
        f"{kind.__qualname__}.{field.name}"
        for kind in configs()
        for field in msgspec.structs.fields(kind)
        if type(None) in alternatives(fields(kind)[field.encode_name]) and field.default is not None
    ]
    assert wrong == []


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter has after running this."""
    command = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('MODULES', *sys.modules)"
    output = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    return set(output.rsplit("MODULES", 1)[1].split())


@pytest.mark.parametrize(
    "code", ["import thetahat", "sys.argv = ['thetahat', '--help']; from thetahat.cli.main import main; main()"]
)
def test_help_does_not_wait_for_torch(code):
    assert {"torch", "numpy", "pyarrow", "tokenizers"} & loaded(code) == set()


def test_what_a_config_is_made_of_does_not_wait_for_torch():
    assert {"torch", "numpy", "pyarrow"} & loaded("import thetahat.recipes.catalogue, thetahat.run.card") == set()


def test_the_version_is_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+", thetahat.__version__)
