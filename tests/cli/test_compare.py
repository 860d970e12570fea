"""`thetahat compare`: ledgers without torch, models that are scored first, a page that needs nothing."""

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from bokeh.models import GlyphRenderer
from hypothesis import given, settings, strategies as st

import thetahat as th
from tests.browser import models, opened
from thetahat.cli.main import main
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.read import cache
from thetahat.figures.differences import Estimate, binned, forest
from thetahat.ledger.ledger import LedgerRow, read_ledger, write_ledger
from thetahat.ledger.policy import Policy

SMALL = [
    *("model.width=32", "model.num_layers=1", "model.num_heads=2", "model.num_kv_heads=1", "model.head_width=16"),
    *("model.inner_width=64", "data.vocab_size=300", "data.context=64", "batch_size=4", "threads=1", "--quiet"),
]
SPLIT = r"data.split_on=\n\n"  # as a shell gives it
METADATA = {"policy": Policy(context=64, stride=32).to_json(), "tokenizer_sha256": "12ab"}
TEXTS = [f"text {i} <script>alert({i})</script> & \x1b[31m {'word ' * i}" for i in range(40)]
PROMISED = {"nats_per_token_difference", "ci95", "p_value", "num_documents", "improved_share"}


def run(*words):
    """(exit code, stdout, stderr)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["thetahat", *map(str, words)])
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                main()
                code = 0
            except SystemExit as ended:
                code = ended.code or 0
    return code, out.getvalue(), err.getvalue()


def write_pair(folder, texts=TEXTS):
    """Two ledgers and the records that they are of."""
    lines = [json.dumps({"text": text, "id": f"<i>{i}</i>", "source": f"s{i % 2}<b>"}) for i, text in enumerate(texts)]
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = [
        LedgerRow(
            id=f"<i>{i}</i>",
            document=f"<i>{i}</i>",
            source=f"s{i % 2}<b>",
            num_tokens=9 + i,
            num_bytes=len(text.encode()),
            context_length=9 + i,
            log_prob=-30.0 - i,
            digest=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
        )
        for i, text in enumerate(texts)
    ]
    better = [replace(row, log_prob=row.log_prob + i % 7 - 2) for i, row in enumerate(rows)]
    write_ledger(folder / "a.parquet", rows, METADATA)
    write_ledger(folder / "b.parquet", better, METADATA)
    return folder / "a.parquet", folder / "b.parquet", folder / "data.jsonl"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"))


def test_ledgers_are_compared_without_torch(pair, tmp_path):
    code = (
        "import sys; from thetahat.cli.main import main\n"
        f"sys.argv = ['thetahat', 'compare', *{[str(path) for path in pair]!r}, '--html', 'page.html', '--json']\n"
        "main(); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.splitlines()[-1])) >= PROMISED
    assert (tmp_path / "page.html").is_file()


def test_its_help_waits_for_neither_numpy_nor_torch():
    code = (
        "import sys; from thetahat.cli.main import main\nsys.argv = ['thetahat', 'compare', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'numpy', 'jinja2', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_it_says_which_is_better_and_what_to_type_next(pair):
    code, out, err = run("compare", *pair[:2], "--top", "3")
    assert code == 0
    assert "B makes the data more likely: B - A = +0.0" in out
    assert re.search(r"^nats per token \(B - A\) +0\.0[0-9]+ \(95 % .* to .*\)$", out, re.MULTILINE)
    assert re.search(r"^bits per byte of A +\d\.\d{1,6}$", out, re.MULTILINE)
    assert "_" not in out.replace("a.parquet", "").partition("largest gains")[0].partition("nats per")[2]
    assert len(re.findall(r"^<i>\d+</i> ", out, re.MULTILINE)) == 6
    assert err.splitlines()[-1].startswith("Next: thetahat compare ")
    assert run("compare", *pair[:2], "--quiet")[2] == ""


def test_with_data_the_largest_gains_and_losses_come_with_their_texts(pair):
    _, out, _ = run("compare", *pair, "--json")
    found = json.loads(out)
    for case in [*found["gains"], *found["losses"]]:
        assert case["text"] == TEXTS[int(case["id"][3:-4])]
    assert json.loads(run("compare", *pair[:2], "--json")[1])["gains"][0]["text"] is None
    assert "\x1b" not in run("compare", *pair)[1]


def test_texts_are_found_in_data_that_has_other_names_and_columns(pair, tmp_path):
    renamed = [{"body": text, "id": f"other-{i}"} for i, text in enumerate(TEXTS)]
    path = tmp_path / "renamed.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in renamed), encoding="utf-8")
    code, out, err = run("compare", *pair[:2], path, "data.columns.text=body", "--json")
    assert code == 0, err
    found = json.loads(out)
    for case in [*found["gains"], *found["losses"]]:
        assert case["text"] == TEXTS[int(case["id"][3:-4])]


def test_data_that_was_not_scored_is_refused(pair, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"text": "x"}', encoding="utf-8")
    with pytest.raises(DataError, match="has no record <i>"):
        th.compare(*pair[:2], [str(tmp_path / "other.jsonl")])
    (tmp_path / "changed.jsonl").write_text(pair[2].read_text(encoding="utf-8").replace("word", "work"), "utf-8")
    with pytest.raises(DataError, match="holds another text than the one that was scored"):
        th.compare(*pair[:2], [str(tmp_path / "changed.jsonl")])


class Page(HTMLParser):
    """Tags with their attributes, and what a reader sees; scripts are neither."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.scripts = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.lasttag == "script":
            self.scripts.append(data)
        else:
            self.words += data


def test_the_page_shows_everything_and_loads_nothing(pair, tmp_path):
    code, _, err = run("compare", *pair, "--html", tmp_path / "new" / "page.html")
    assert code == 0
    assert "page in" in err
    text = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert not {"link", "img", "iframe", "i", "object"} & set(names)
    assert not [value for _, found in page.tags for name, value in found.items() if name in {"src", "href", "onload"}]
    digests = [b64encode(sha256(script.encode()).digest()).decode() for script in page.scripts if script.strip()]
    assert len(digests) == 4  # the library, its level of logging, the figures, and what colours them
    assert all(f"'sha256-{digest}'" in text for digest in digests)
    assert "default-src 'none'" in text
    for part in ("B makes the data more likely", "s0<b>", "<script>alert(", "\\x1b[31m", "95%", "p, signs flipped"):
        assert part in page.words


def test_a_browser_draws_the_page_and_no_text_of_the_data_acts(pair, tmp_path, browser):
    assert run("compare", *pair, "--html", tmp_path / "page.html")[0] == 0
    said = []
    view = opened(browser, tmp_path / "page.html", said)
    assert view.evaluate("Bokeh.documents[0].roots().length") == 2
    numbers = [len(found) for found in models(view, "FixedTicker", "ticks")]
    assert numbers == [3]  # all documents, and two sources
    assert said == []


def test_an_interval_far_wider_than_the_others_is_drawn_to_the_edge(pair, tmp_path):
    for path, nats in zip(pair[:2], (0.0, 900.0), strict=True):
        rows, metadata = read_ledger(path)
        wild = [replace(rows[i], id=f"w{i}", document=f"w{i}", source="w", log_prob=-950 + nats * i) for i in range(2)]
        write_ledger(tmp_path / path.name, [*rows, *wild], metadata)
    compared = th.compare(*(tmp_path / path.name for path in pair[:2]))
    rows = [Estimate(one.source, *one.difference.main.interval, "") for one in compared.sources]
    plot = forest(rows, "nats")
    left, right = plot.x_range.start, plot.x_range.end
    widest = max(rows, key=lambda row: row.high - row.low)
    assert widest.high - widest.low > 3 * (right - left)
    tables = [glyph.data_source.data for glyph in plot.renderers if isinstance(glyph, GlyphRenderer)]
    drawn = [value for table in tables if "low" in table for name in ("x", "low", "high") for value in table[name]]
    assert len(drawn) == 3 * len(rows)
    assert all(left <= value <= right for value in drawn)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200))
def test_a_histogram_holds_every_value_on_its_side_of_zero(values):
    counts, edges = binned(values)
    assert counts.sum() == len(values)
    assert 0.0 in edges
    reach = edges[-1]
    inside = [min(max(value, -reach), reach) for value in values]
    assert counts[edges[:-1] >= 0].sum() == sum(value >= 0 for value in inside)


def test_a_page_of_one_document_or_of_no_difference_can_be_drawn(tmp_path):
    a, b, data = write_pair(tmp_path, TEXTS[:1])
    assert run("compare", a, b, data, "--html", tmp_path / "one.html")[0] == 0
    assert run("compare", a, a, "--html", tmp_path / "same.html")[0] == 0
    assert "the same likelihood, to the last bit" in (tmp_path / "same.html").read_text(encoding="utf-8")


def test_a_page_is_not_written_over_and_that_is_said_first(pair, tmp_path):
    (tmp_path / "page.html").write_text("mine", encoding="utf-8")
    code, out, err = run("compare", *pair[:2], "--html", tmp_path / "page.html")
    assert (code, out) == (7, "")
    assert "nothing is written over" in err


def test_what_goes_wrong_ends_with_its_code(pair, tmp_path):
    assert run("compare", pair[0])[0] == 2
    assert run("compare", pair[0], tmp_path / "none.parquet")[0] == 3
    assert run("compare", pair[0], tmp_path / "none")[0] == 4
    assert run("compare", *pair[:2], "dtype=float64")[0] == 2
    rows, metadata = read_ledger(pair[0])
    sick = [*rows[1:], replace(rows[0], log_prob=float("nan"))]
    write_ledger(tmp_path / "sick.parquet", sick, metadata)
    code, out, err = run("compare", pair[0], tmp_path / "sick.parquet")
    assert (code, out) == (5, "")
    assert "<i>0</i>" in err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs on one text, the second a little longer, and a text to compare them on."""
    folder = tmp_path_factory.mktemp("models")
    lines = [f"The ship number {i} sails the cold sea, and the whale {i * i} does not care." for i in range(60)]
    (folder / "train.txt").write_text("\n\n".join(lines), encoding="utf-8")
    (folder / "other.txt").write_text("\n\n".join(lines[::3]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("THETAHAT_CACHE", str(folder / "cache"))
        for name, steps in (("a", 1), ("b", 12)):
            how = ["data.train=train.txt", SPLIT, f"max_steps={steps}", "--out", f"runs/{name}"]
            code, _, err = run("train", *how, *SMALL)
            assert code == 0, err
        yield folder


def test_models_are_scored_first_and_give_the_numbers_of_their_ledgers(place):
    for name in ("a", "b"):
        assert run("score", f"runs/{name}", "other.txt", "--out", f"{name}.parquet", "--quiet")[0] == 0
    by_model = json.loads(run("compare", "runs/a", "runs/b", "other.txt", "--json")[1])
    by_ledger = json.loads(run("compare", "a.parquet", "b.parquet", "other.txt", SPLIT, "--json")[1])
    mixed = json.loads(run("compare", "a.parquet", "runs/b", "other.txt", "--json")[1])
    names = ("a", "b")
    assert {k: v for k, v in by_model.items() if k not in names} == {
        k: v for k, v in by_ledger.items() if k not in names
    }
    assert mixed["ci95"] == by_ledger["ci95"]
    assert by_model["verdict"] == "B"
    assert by_model["num_documents"] == 20
    assert by_model["gains"][0]["text"].startswith("The ship number")


def test_models_are_scored_and_compared_where_no_cache_can_be_written(place, monkeypatch):
    expected = json.loads(run("compare", "runs/a", "runs/b", "other.txt", "--json")[1])
    cache._temporary.cache_clear()
    monkeypatch.setenv("THETAHAT_CACHE", str(place / "train.txt"))
    code, out, err = run("compare", "runs/a", "runs/b", "other.txt", "--json")
    assert code == 0, err
    assert json.loads(out) == expected
    assert err.count("a temporary folder takes its place") == 1


def test_without_data_models_are_compared_on_what_they_held_out(place):
    found = th.compare(th.load("runs/a"), th.load("runs/b"))
    assert found.verdict in {"B", "open"}
    assert 0 < found.whole.num_documents < 20
    with pytest.raises(ConfigError, match="changes nothing"):
        th.compare("a.parquet", "b.parquet", overrides=["threads=1"])


def test_python_has_the_same_verb_without_torch():
    code = "import sys, thetahat; thetahat.compare; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
