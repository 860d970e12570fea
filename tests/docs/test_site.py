"""The site is whole: no link leads nowhere, no formula is left as TeX, nothing comes from elsewhere."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FETCHED = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}


def build(root, target):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", root / "mkdocs.yml"]
    return subprocess.run([*command, "--site-dir", target], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.html")}


class Seen(HTMLParser):
    """What a page makes a browser fetch, and its text outside of code."""

    def __init__(self):
        super().__init__()
        self.fetched, self.text, self.inside = [], [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if FETCHED.get(tag) == name]
        if tag in {"code", "script", "style"}:
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)


@pytest.fixture(scope="module")
def seen(site):
    found = {}
    for name, page in site.items():
        found[name] = Seen()
        found[name].feed(page)
    return found


def test_every_page_of_the_docs_is_in_the_navigation(site):
    named = set(re.findall(r'<a href="([^"#]+)" class="md-nav__link', site["index.html"]))
    pages = {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"start.html", "changelog.html", "contributing.html"} == named | {"index.html"}


def test_a_page_fetches_nothing_from_elsewhere(seen):
    assert [(name, url) for name, page in seen.items() for url in page.fetched if re.match(r"(\w+:)?//", url)] == []
    styles = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "theme").glob("*.css")]
    assert [url for style in styles for url in re.findall(r"url\(\W*(\w+:)?//", style)] == []


def test_no_formula_is_left_as_tex(seen, site):
    assert site["01-the-objective.html"].count("<math ") > 20
    left = [
        (name, line)
        for name, page in seen.items()
        if name not in {"keys.html", "api.html"}
        for line in page.text
        if re.search(r"\\[a-z({\[]|\$\$", line)
    ]
    assert left == []


def test_a_file_of_the_code_that_a_page_links_to_is_a_page(site):
    assert "objective/objective.py.html" in site["01-the-objective.html"]
    assert "log_likelihood" in site["source/src/thetahat/objective/objective.py.html"]


def test_what_leads_nowhere_fails(tmp_path):
    pages = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/index.md", "docs/api.md", "docs/decisions.md"}
    pages |= {"docs/examples.md", "docs/coming-from.md"}
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.md", "__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for page in pages:
        (tmp_path / page).write_text("# A page\n\n[here](#a-page), $x^2$\n", encoding="utf-8")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 0, built.stdout + built.stderr

    links = ["02-nowhere.md", "../README.md#no-such-heading", "../src/none.py"]
    text = "".join(f"[link]({link})\n" for link in links)
    (tmp_path / "docs" / "index.md").write_text(f"# A page\n\n{text}", encoding="utf-8")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    assert [link for link in links if Path(link.split("#")[-1]).name not in built.stderr] == []

    (tmp_path / "docs" / "index.md").write_text("# A page\n\n$\\nosuchthing{x}$\n", encoding="utf-8")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    assert "nosuchthing" in built.stderr
