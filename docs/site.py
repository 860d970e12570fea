"""What the site has beside the pages of docs/: the pages of the root, the files that pages link to, and formulas.

mkdocs calls the functions `on_...` while it builds (`hooks` in mkdocs.yml).
"""

import html
import os
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs loads this file by its path
from formulas import draw

ROOT = Path(__file__).parents[1]
OF_THE_ROOT = {"README.md": "start.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LANGUAGES = {".py": "python", ".toml": "toml"}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")  # what a page links to, without its anchor
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Names with a star in the navigation become the pages that they match."""
    pages = sorted(path.name for path in Path(config.docs_dir).glob("*.md"))
    config.nav = [_expanded(entry, pages) for entry in config.nav or []]
    return config


def _expanded(entry: Any, pages: list[str]) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(below, pages) for title, below in entry.items()}
    if isinstance(entry, list):
        return [one for below in entry for one in _listed(_expanded(below, pages))]
    return [page for page in pages if fnmatch(page, entry)] if "*" in entry else entry


def _listed(entry: Any) -> list[Any]:
    return entry if isinstance(entry, list) else [entry]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the root, and a page for each file of the repository that a page links to."""
    for name, page in OF_THE_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    linked: set[str] = set()
    for file in files.documentation_pages():
        linked |= {_target(_origin(file.src_uri), match[1]) for match in LINK.finditer(file.content_string)}
    for path in sorted(linked):
        if _is_source(path):
            files.append(File.generated(config, _page_of(path), content=_shown(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links that leave docs/ lead to the pages that the site has in their place."""
    here = page.file.src_uri
    parts = FENCED.split(markdown)
    return "".join(part if FENCED.fullmatch(part) else LINK.sub(lambda m: _link(here, m[1]), part) for part in parts)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas become MathML, which browsers draw themselves."""
    return FORMULA.sub(_drawn, content)


def _drawn(match: re.Match[str]) -> str:
    return draw(html.unescape(match[3]), is_display=match[2] == "[")


def _origin(page: str) -> str:
    """The file of the repository that a page was written as."""
    return next((name for name, made in OF_THE_ROOT.items() if made == page), f"docs/{page}")


def _target(origin: str, link: str) -> str:
    """The path in the repository of what a file links to."""
    return os.path.normpath(os.path.join(os.path.dirname(origin), link))


def _is_source(path: str) -> bool:
    return not path.startswith("docs/") and path not in OF_THE_ROOT and (ROOT / path).is_file()


def _page_of(path: str) -> str:
    """The page that stands for a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return OF_THE_ROOT.get(path) or f"source/{path.removesuffix('.md')}.md"


def _link(page: str, link: str) -> str:
    target = _target(_origin(page), link)
    return os.path.relpath(_page_of(target), os.path.dirname(page) or ".")


def _shown(path: str) -> str:
    """A file as a page that no search finds: prose as it is, everything else as code."""
    head = "---\nsearch:\n  exclude: true\n---\n"
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return head + text
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{head}# {path}\n\n{fence}{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}{fence}\n"
