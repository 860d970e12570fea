"""What can be executed in README.md and docs/ is executed; what can be looked up is looked up."""

import ast
import contextlib
import doctest
import io
import json
import re
import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer

from thetahat.cli.main import app, main
from thetahat.core.axes import AXES
from thetahat.core.config import override
from thetahat.core.errors import ThetahatError
from thetahat.core.schema import hint_at, known_keys
from thetahat.data.tokens.roles import Roles
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.diagnosis.alarms.alarm import NAMES
from thetahat.interop.around import Around
from thetahat.interop.write import write_folder
from thetahat.model.build import build_model
from thetahat.model.init import initialize
from thetahat.recipes.catalogue import DIALS, RECIPES, find_recipe
from thetahat.run.config import RunConfig
from thetahat.verbs.export import ExportConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
# The first column of these tables has the names of others, which are none of ours.
TEXTS["docs/coming-from.md"] = re.sub(r"^\|[^|\n]*\|", "|", TEXTS["docs/coming-from.md"], flags=re.MULTILINE)
WORDS = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.svg"))]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"(?:\[([^\]]*)\]\(|<img src=\"())([^)\s\"]+)")

# A command of the README is run as it stands, with these appended: everything real but the size.
SMALL = [
    *("model.num_layers=1", "model.width=32", "model.num_heads=2", "model.num_kv_heads=1", "model.head_width=16"),
    *("model.inner_width=64", "data.vocab_size=300", "data.context=64", "batch_size=4", "max_steps=4", "threads=1"),
    *("evaluation.every=2", "checkpoint.every=2"),
]
NOT_RUN = ("make", "pip", "python", "git", "torchrun")  # what installs, or starts processes that install
SLOW = ("verify",)  # starts ranks


class Block:
    """A fenced block of a page."""

    def __init__(self, text, match):
        self.language, self.source, self.start, self.end = match[1], match[2], match.start(), match.end()
        self.line = text.count("\n", 0, match.start()) + 1

    def output_after(self, text, blocks):
        """What the block that follows directly shows as output, or nothing."""
        following = [block for block in blocks if block.start > self.end][:1]
        shown = following and following[0].language == "text" and not text[self.end : following[0].start].strip()
        return following[0].source if shown else ""


def blocks_of(text):
    return [Block(text, match) for match in BLOCK.finditer(text)]


def prose_of(text):
    return BLOCK.sub("", text)


def commands_of(text):
    """Every `$ COMMAND` of the console blocks, in order, without its comment."""
    shown = [block.source for block in blocks_of(text) if block.language == "console"]
    return [line[2:].split("  #")[0].strip() for source in shown for line in source.splitlines() if line[:2] == "$ "]


def invocations():
    """Every use of `thetahat ...` in console blocks and in inline code: (page, words)."""
    for page, text in TEXTS.items():
        for code in [*commands_of(text), *CODE.findall(prose_of(text))]:
            words = shlex.split(code) if code.count('"') % 2 == code.count("'") % 2 == 0 else code.split()
            if words[:1] == ["thetahat"] and len(words) > 1:
                yield page, words[1:]


def command_named(words):
    """The typer command that these words begin with, or None."""
    command = typer.main.get_command(app)
    for word in words:
        below = getattr(command, "commands", {})
        if word not in below:
            break
        command = below[word]
    return command if command is not typer.main.get_command(app) and not getattr(command, "commands", None) else None


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the files that the README's reader is supposed to have."""
    folder = tmp_path_factory.mktemp("desk")
    lines = [
        f"Speaker {i % 7}:\nThe ship number {i} sails the cold sea, and the whale {i * i} does not care.\n"
        for i in range(300)
    ]
    (folder / "my.txt").write_text("\n".join(lines), encoding="utf-8")
    turns = [
        {"messages": [{"role": "user", "content": f"ship {i}"}, {"role": "assistant", "content": f"sails {i}"}]}
        for i in range(40)
    ]
    (folder / "dialogues.jsonl").write_text("".join(json.dumps(one) + "\n" for one in turns), encoding="utf-8")
    (folder / "other.txt").write_text("\n".join(lines[:20]), encoding="utf-8")
    _write_their_model(folder / "their-model", lines)
    return folder


def _write_their_model(folder, lines):
    """A folder as transformers has it, of the shape that SMALL gives to all models here."""
    config = override(find_recipe("quickstart"), SMALL).model
    tokenizer = train_tokenizer(lines, 300)
    model = build_model(config, tokenizer.vocab_size)
    initialize(model, 0)
    end = tokenizer.roles.eos[0]
    around = Around(roles=Roles(bos=end, eos=(end,)), context=64, tokenizer=tokenizer.files()["tokenizer.json"])
    write_folder(folder, dict(model.named_parameters()), config, around)


@pytest.fixture(scope="module")
def readme_run(desk, cache):
    """The desk after the README's cheap commands, in order; each must end with 0."""
    for command in commands_of(TEXTS["README.md"]):
        words = shlex.split(command)
        if words[0] not in NOT_RUN and words[1] not in SLOW:
            run(words, desk)
    return desk


def run(words, folder):
    assert words[0] == "thetahat", f"the README names a command that no test can run: {words}"
    small = SMALL if words[1] in {"train", "verify"} else []
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(sys, "argv", [*words, *small])
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                main()
                code = 0
            except SystemExit as ended:
                code = ended.code or 0
    assert code == 0, f"{shlex.join(words)} ended with {code}:\n{err.getvalue()}"
    return out.getvalue()


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if "```python\n" in text])
def test_every_python_block_runs_and_prints_what_the_page_shows(page, desk, cache):
    text, namespace = TEXTS[page], {"__name__": page}
    blocks = blocks_of(text)
    for block in [block for block in blocks if block.language == "python"]:
        code = compile("\n" * block.line + block.source, str(ROOT / page), "exec")
        with contextlib.chdir(desk), contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        shown, flags = block.output_after(text, blocks), doctest.ELLIPSIS
        example = doctest.Example(block.source, shown)
        checker = doctest.OutputChecker()
        assert checker.check_output(shown, printed.getvalue(), flags), (
            f"{page}:{block.line}\n{checker.output_difference(example, printed.getvalue(), flags)}"
        )


def test_every_cheap_command_of_the_readme_runs(readme_run):
    assert (readme_run / "runs" / "mine" / "checkpoints" / "latest").is_file()
    assert (readme_run / "ledger.parquet").is_file()


def test_score_without_data_is_the_number_of_the_run_s_own_log(readme_run):
    trained = run(["thetahat", "train", "data.train=my.txt", "--out", "runs/mine", "--json"], readme_run)
    scored = run(["thetahat", "score", "runs/mine", "--json"], readme_run)
    held_out = json.loads(trained.splitlines()[-1])["held_out_bits_per_byte"]
    assert json.loads(scored.splitlines()[-1])["bits_per_byte"] == held_out


@pytest.mark.slow
def test_the_readme_s_slow_commands_run(desk, cache):
    slow = [shlex.split(command) for command in commands_of(TEXTS["README.md"])]
    slow = [words for words in slow if words[0] not in NOT_RUN and words[1] in SLOW]
    assert slow
    for words in slow:
        run(words, desk)


def test_the_run_folder_of_the_readme_is_the_one_that_a_run_leaves(readme_run):
    (tree,) = (block.source for block in blocks_of(TEXTS["README.md"]) if block.source.startswith("runs/NAME/\n"))
    shown = {re.sub(r"\d{8}", "N", line.split()[0].rstrip("/")) for line in tree.splitlines()[1:] if line.strip()}
    folder = readme_run / "runs" / "mine"
    left = {re.sub(r"\d{8}", "N", path.name) for path in folder.rglob("*") if not path.name.startswith(".")}
    assert shown == left


def test_every_command_and_option_that_a_page_names_exists():
    strangers = []
    for page, words in invocations():
        if words[0].startswith("-"):
            known = {"--help", "-h", "--version"}
        elif (command := command_named(words)) is None:
            strangers.append(f"{page}: thetahat {shlex.join(words)}")
            continue
        else:
            known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        options = [word for word in words if word.startswith("-") and word != "-"]
        strangers += [f"{page}: {option} in thetahat {shlex.join(words)}" for option in options if option not in known]
    assert strangers == []


def test_every_option_that_stands_alone_exists():
    everything = {"--help", "--version"}
    for command in commands_by_name().values():
        everything |= {option for parameter in command.params for option in parameter.opts}
    alone = [
        (page, code.split()[0])
        for page, text in TEXTS.items()
        for code in CODE.findall(prose_of(text))
        if re.match(r"--[a-z]", code)
    ]
    assert [f"{page}: {option}" for page, option in alone if option not in everything] == []


def commands_by_name():
    """`train`, `tokenizer train`, ...: every command that the help shows."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        if command.hidden:
            continue
        below = getattr(command, "commands", {})
        found |= {f"{name} {each}": one for each, one in below.items()} or {name: command}
    return found


def test_the_readme_names_every_command():
    prose = TEXTS["README.md"]
    assert [name for name in commands_by_name() if f"`thetahat {name}" not in prose] == []


def test_every_key_and_recipe_that_a_page_names_exists():
    known = {*known_keys(RunConfig), *known_keys(ExportConfig), *(f"diagnosis.policies.{name}" for name in NAMES)}
    known |= {dial for dials in DIALS.values() for dial in dials}
    pairs = [
        (page, key)
        for page, text in TEXTS.items()
        if page != "docs/api.md"  # it shows values of configs, and is made from them
        for code in [*commands_of(text), *CODE.findall(prose_of(text)), *re.findall(r'"([a-z_.]+=[^"]*)"', text)]
        for key in re.findall(r"(?<![\w.\"'-])([a-z_]+(?:\.[a-z_0-9]+)*)=(?=[\w./:-])", code)
    ]
    assert len(pairs) > 10
    pairs = [(page, key) for page, key in pairs if not (re.search(r"\.\d", key) and hint_at(RunConfig, key.split(".")))]
    assert [f"{page}: {key}=" for page, key in pairs if key not in known and "(" not in key] == []
    prose = TEXTS["README.md"]
    assert [name for name in RECIPES if f"`{name}`" not in prose] == []


def test_every_exit_code_is_in_the_readme():
    section = TEXTS["README.md"].split("## Exit codes")[1].split("\n## ")[0]
    listed = {
        int(number) for row in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE) for number in row.split(", ")
    }
    raised = {kind.exit_code for kind in ThetahatError.__subclasses__() if isinstance(kind.exit_code, int)}
    assert listed == raised | {0, 1, 130, 143}


def test_every_link_leads_somewhere():
    broken = []
    for page, text in TEXTS.items():
        for name, _, target in LINK.findall(text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
            if not file.exists():
                broken.append(f"{page}: {target}")
            elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
                broken.append(f"{page}: {target} has no such heading")
            elif file.suffix == ".py" and (code := CODE.fullmatch(name)) and not defines(file, code[1]):
                broken.append(f"{page}: {path} does not define {code[1]}")
    assert broken == []


def anchors(text):
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def defines(file, name):
    """Whether a file defines this function, class, constant or method (`Class.method`); its own name counts."""
    if name.endswith(file.name):
        return True
    *owner, leaf = name.split(".")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name in owner]
    bodies = scopes[0].body if owner and scopes else [] if owner else tree.body
    named = {node.name for node in bodies if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = {ast.unparse(t) for node in bodies if isinstance(node, ast.Assign) for t in node.targets}
    annotated = {ast.unparse(node.target) for node in bodies if isinstance(node, ast.AnnAssign)}
    return leaf in named | targets | annotated


def test_every_file_that_a_page_names_exists():
    named = [
        (page, path)
        for page, text in TEXTS.items()
        for path in CODE.findall(prose_of(text))
        if re.match(r"(src|docs|tests|benchmarks|examples)/[\w./-]*$", path)
    ]
    assert [f"{page}: {path}" for page, path in named if not (ROOT / path).exists()] == []


def test_every_make_target_and_pin_that_a_page_names_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    for page, text in TEXTS.items():
        for code in [*commands_of(text), *CODE.findall(prose_of(text))]:
            words = code.split()
            if words[:1] == ["make"]:
                for word in words[1:]:
                    name = word.split("=")[0]
                    assert re.search(rf"^{name}(:| \?=)", makefile, re.MULTILINE), f"{page}: make {word}"
            if words[:2] == ["pip", "install"]:
                assert [word for word in words if "==" in word and word not in pins] == [], page


@pytest.mark.parametrize("path", WORDS, ids=lambda path: path.name)
def test_no_page_names_a_path_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.:/])/(?:home|root|work|tmp|Users|mnt|var|opt)/[\w.]+", text) == []


@pytest.mark.parametrize("path", WORDS, ids=lambda path: path.name)
def test_no_page_leaves_a_gap(path):
    assert (
        re.findall(r"\{\{[\w. ]+\}\}|TODO.*", path.read_text(encoding="utf-8").replace("{{The thetahat authors}}", ""))
        == []
    )


def test_the_alphabet_of_axes_is_the_one_of_the_code():
    rows = re.findall(r"^\| ([A-Z]) \| (.*?) \|", TEXTS["docs/index.md"], re.MULTILINE)
    assert dict(rows) == dict(AXES)


def test_the_index_names_every_chapter():
    chapters = {Path(page).name for page in TEXTS if page.startswith("docs/")} - {"index.md"}
    assert chapters == {Path(target).name for _, _, target in LINK.findall(TEXTS["docs/index.md"]) if "/" not in target}


def test_the_picture_is_of_the_command_line_and_needs_nothing_from_elsewhere():
    picture = (ROOT / "docs" / "quickstart.svg").read_text(encoding="utf-8")
    words = "".join(ElementTree.fromstring(picture).itertext()).replace("\xa0", " ")
    for part in ("thetahat train", "log-likelihood", "bits per byte", "Next:"):
        assert part in words
    links = re.findall(r"(?:href|src|url)\W+(https?:[^\"')]+)", picture)
    assert links == []
