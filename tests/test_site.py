"""The documentation site: built strictly, whole within itself, and what it tells to type is what there is."""

import html.parser
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import WIDTHS, opened
from conftest import REPOSITORY

from ms_vit import cli

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="pip install -e .[docs]")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder], cwd=REPOSITORY,
                          capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Links(html.parser.HTMLParser):
    """Ids of a page, the addresses that it loads, and those that it leads to."""

    def __init__(self, page: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.ids |= {told[key] or "" for key in ("id", "name") if key in told}
        if (tag == "a" and told.get("href")) or (tag == "link" and told.get("rel") in ("next", "prev", "canonical")):
            self.leads.append(told["href"] or "")
        else:
            self.loads += [told[key] or "" for key in ("src", "href") if told.get(key)]


def test_pages_load_nothing_from_elsewhere_and_lead_to_what_is_there(site):
    pages = {page: Links(page) for page in sorted(site.glob("*.html"))}
    assert len(pages) >= len(PAGES)
    for page, links in pages.items():
        assert not [address for address in links.loads if urlsplit(address).scheme not in ("", "data")], page
        for address in links.leads + links.loads:
            parts = urlsplit(address)
            if parts.scheme or page.name == "404.html":
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.exists(), f"{page.name} leads to {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids | {"__skip"}, f"{page.name} leads to {address}"


def test_every_recipe_and_every_verb_is_told_of(site):
    recipes = (site / "recipes.html").read_text()
    for file in (REPOSITORY / "ms_vit/recipes").glob("*.yaml"):
        assert f"<code>{file.stem}</code>" in recipes
    verbs = (site / "verbs.html").read_text()
    for verb in cli.VERBS:
        assert f'id="{verb}"' in verbs and f"ms-vit {verb} " in verbs
    assert "--optimizer.layer_decay" in verbs and "--corrupt" in verbs
    python = (site / "python.html").read_text()
    assert 'id="ms_vit.inference.recorder.features"' in python and "gradient_rollout" in python


def commands() -> list[str]:
    """What the pages tell to type of ours, in whatever block."""
    texts = [page.read_text() for page in PAGES]
    blocks = [block for text in texts for block in re.findall(r"```(?:bash|text)\n(.*?)```", text, re.DOTALL)]
    return [line for block in blocks for line in block.splitlines() if line.startswith("ms-vit ")]


def test_every_command_of_the_pages_is_one(monkeypatch):
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    assert len(commands()) > 20
    for command in commands():
        _, verb, *words = shlex.split(command, comments=True)
        if verb == "train":
            words = importlib.import_module("ms_vit.train").whole(words)
        hooks.parser_of(verb).parse_args(words, defaults=False)      # raises for an option that isn't there


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=lambda one: one.stem)
def test_the_python_of_the_pages_works(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        if not block.startswith("# my_package"):        # parts of a package that isn't there
            exec(compile(block, str(page), "exec"), {})


@pytest.mark.parametrize("width", WIDTHS)
def test_the_site_is_whole_in_a_browser(width, site, browser):
    for name in ("index.html", "look.html"):
        seen = opened(browser, site / name, width=width)
        assert not [address for address in seen.asked if not address.startswith(("file:", "data:", "blob:"))]
        assert not seen.broken_pictures() and seen.wider_than_the_window() == 0
        assert not [fault for fault in seen.faults() if fault.startswith(("serious", "critical"))]
