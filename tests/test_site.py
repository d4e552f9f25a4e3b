"""The documentation: a site that is whole in itself, commands that do what they say, a notebook that runs."""

import functools
import html
import importlib
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from browser import WIDTHS, opened
from conftest import REPOSITORY

import ms_vit
from ms_vit import cli, schema
from ms_vit.recipe import RECIPES, Recipe

DOCS = REPOSITORY / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
NOTEBOOK = DOCS / "quickstart.ipynb"
EPOCHS = 2
SKETCHES = {"architecture.md"}          # its code is of a package that there isn't
OTHERS = {"--report", "--dry-run"}      # options of pytest and of a script, which pages name, too
KEY = rf"(?:{'|'.join(Recipe.__dataclass_fields__)})\.\w+"


def blocks(page: str, *languages: str) -> list[str]:
    fence = re.compile(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return fence.findall((DOCS / page).read_text())


def commands(page: str, *languages: str) -> list[list[str]]:
    """The words of each command, without its comments."""
    lines = [shlex.split(line, comments=True) for block in blocks(page, *languages) for line in block.splitlines()]
    return [words for words in lines if words]


def write_recipes(page: str, folder: Path) -> None:
    """The YAMLs that a page shows and names in their first lines."""
    for block in blocks(page, "yaml"):
        if name := re.match(r"# (\w+\.yaml)\n", block):
            (folder / name[1]).write_text(block)


# --- the site

class Parsed(HTMLParser):
    """What a page refers to, by tag, and the places in it that can be referred to."""

    def __init__(self, file: Path):
        super().__init__()
        self.references: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.ids.add(value or "")
            elif name in ("src", "href", "srcset", "data", "poster", "action"):
                self.references.append((tag, value or ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Parsed]:
    return {file: Parsed(file) for file in site.rglob("*.html")}


def test_every_page_is_in_the_navigation_and_in_the_site(site):
    nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    listed = [page for entry in nav for value in entry.values()
              for page in ([value] if isinstance(value, str) else [page for inner in value for page in inner.values()])]
    assert sorted(listed) == PAGES
    assert all((site / page).with_suffix(".html").is_file() for page in listed) and (site / NOTEBOOK.name).is_file()


def test_no_page_asks_anything_of_the_network(site, pages):
    asked = {(file.name, value) for file, page in pages.items() for tag, value in page.references
             if tag != "a" and urlsplit(value).scheme not in ("", "data")}
    assert not asked
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_every_link_leads_somewhere(site, pages):
    broken, count = [], 0
    for file, page in pages.items():
        for _, value in page.references:
            link = urlsplit(value)
            if link.scheme or file.name == "404.html":       # its links are of the root of whatever server there is
                continue
            count += 1
            target = (file.parent / unquote(link.path)).resolve() if link.path else file
            anchors = pages[target].ids | {"__top"} if target in pages else set()
            if not target.exists() or (link.fragment and unquote(link.fragment) not in anchors):
                broken.append(f"{file.relative_to(site)}: {value}")
    assert not broken and count > 500


def test_the_tables_that_are_made_tell_of_every_recipe_verb_and_key(site):
    recipes, verbs, keys = (re.sub(r"<[^>]+>", "", (site / page).read_text()) for page in (
        "recipes.html", "reference/verbs.html", "reference/recipe.html"))
    for file in RECIPES.glob("*.yaml"):
        assert f"\n{file.stem}\n" in recipes
        if expected := re.search(r"# Expected: (.+?)\.?\n", file.read_text()):
            assert expected[1] in recipes
    assert all(f"ms-vit {verb}" in verbs for verb in cli.VERBS) and "--top-k" in verbs and "default-photos" in recipes
    assert all(key in keys for key, section in schema.keys_of(Recipe).items() if section is None)
    assert "LayerNorm on each head" in keys


def test_the_reference_tells_of_every_public_name():
    page = (DOCS / "reference/python.md").read_text()
    assert set(re.findall(r"heading: ms_vit\.(\w+)", page)) == set(ms_vit.__all__)


# --- what pages tell to type

@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh", "bash")])
def test_the_commands_of_a_page_are_understood(page, tmp_path, monkeypatch):
    """Each is parsed as it would be, and its recipe loaded; only what it would call does nothing."""
    monkeypatch.chdir(tmp_path)
    write_recipes(page, tmp_path)
    called = []
    for verb in cli.VERBS:
        module = importlib.import_module(f"ms_vit.{verb}")
        function = getattr(module, verb)
        monkeypatch.setattr(module, verb, functools.wraps(function)(
            lambda *given, verb=verb, **named: called.append(verb)))
    asked = []
    for words in commands(page, "sh", "bash"):
        while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words[0] == "bash":
            script = REPOSITORY / words[1]
            assert script.is_file(), words
            words = ["ms-vit", script.stem.removesuffix("_distributed"), *words[2:]]
        if words[0] == "ms-vit" and words[1] in cli.VERBS and "--help" not in words:
            asked.append(words[1])
            assert cli.main([word for word in words[1:] if word not in ("--dry-run", "--json")]) == 0, words
    assert called == asked


@pytest.mark.parametrize("page", PAGES)
def test_options_and_keys_that_a_page_names_are_there(page):
    known, keys = set(OTHERS), schema.keys_of(Recipe)
    for verb in cli.VERBS:
        module = importlib.import_module(f"ms_vit.{verb}")
        parser = cli.parser_of(getattr(module, verb), arguments=getattr(module, "arguments", None))
        known |= {option for action in parser._actions for option in action.option_strings}
    code = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(), flags=re.DOTALL | re.M))
    assert {option for text in code for option in re.findall(r"(?<!\S)--[a-z][\w.-]*", text)
            if not option.startswith("--section")} <= known | {"--weights"}
    assert {key for text in code for key in re.findall(rf"(?<![\w./-]){KEY}", text)
            if not key.endswith((".safetensors", ".json", ".yaml", ".npz", ".py"))} <= keys.keys()


# --- done

@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> Path:
    """A folder with data and a run of few epochs in it, for what follows."""
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ms_vit.download("digits")
        ms_vit.train(ms_vit.Recipe.load("digits", {"train.epochs": EPOCHS}), "runs/digits")
    (folder / "scripts").symlink_to(REPOSITORY / "scripts")
    return folder


def test_the_notebook_makes_a_page(site):
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    page = (site / "notebook.html").read_text()
    titles = [line.lstrip("# ") for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()
              if line.startswith("## ")]
    assert titles and all(html.escape(title, quote=False) in page for title in titles)


@pytest.fixture(scope="module")
def done_already() -> set[tuple[str, ...]]:
    """Commands that a page before had, too."""
    return set()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash", "python") and page not in SKETCHES])
def test_a_page_does_what_it_says(page, quickstart, done_already, monkeypatch):
    """Commands in ```bash and code in ```python; what takes long, or wants a card, is ```sh and not run."""
    monkeypatch.chdir(quickstart)
    write_recipes(page, quickstart)
    for words in commands(page, "bash"):
        if tuple(words) in done_already:
            continue
        done_already.add(tuple(words))
        done = cli.main(words[1:]) if words[0] == "ms-vit" else subprocess.run(
            ["env", *words], stdout=subprocess.DEVNULL).returncode
        assert done == 0, words
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), {})


# --- seen

@pytest.mark.parametrize("width", WIDTHS)
def test_the_site_is_whole_in_a_browser(width, site, browser):
    for name in ("index.html", "look.html"):
        seen = opened(browser, site / name, width=width)
        assert not [address for address in seen.asked if not address.startswith(("file:", "data:", "blob:"))]
        assert not seen.broken_pictures() and seen.wider_than_the_window() == 0
        assert not [fault for fault in seen.faults() if fault.startswith(("serious", "critical"))]
