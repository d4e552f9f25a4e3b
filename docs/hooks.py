"""What MkDocs calls while it builds the site (mkdocs.yml): what pages tell that isn't typed twice.

A page holds a comment, <!-- made: recipes -->, in whose place the site has what is made of the code: the table of
recipes, the verbs' options, a recipe's keys, or the notebook. And pages link to files of the repository where these
lie, [trainer.py](../ms_vit/training/trainer.py); each of them has a page in the site.
"""

import importlib
import json
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from ms_vit import cli
from ms_vit.recipe import RECIPES, Recipe

REPOSITORY = Path(__file__).parents[1]
DOCS = "docs"
FOLDER = "repository"       # of the site, for files from outside of docs/
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)]*)?\)")
MARK = re.compile(r"^<!-- made: ([\w ]+) -->$", re.MULTILINE)
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".toml": "toml"}
UNSEARCHED = "---\nsearch: {exclude: true}\n---\n"      # front matter: the site's search leaves such a page out
VERBS_OWN = ("options", "positional arguments")         # argparse's titles; its other groups are a recipe's sections


# --- what MkDocs calls

def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds a page for each file outside of docs/ that pages link to, and the pictures of those."""
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    linked = {path for uri, text in pages for path in outside(uri, made(text))}
    for path in sorted(linked):
        add(files, config, path, repository_page(path))
        if path.endswith(".md"):
            for picture, _, target, _ in LINK.findall((REPOSITORY / path).read_text(encoding="utf-8")):
                if picture and not target.startswith("http"):
                    inner = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
                    add(files, config, inner, (REPOSITORY / inner).read_bytes())
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri
    if uri.startswith(f"{FOLDER}/"):
        return LINK.sub(lambda link: link[0] if leads(link[3], uri, files) else link[2], markdown)
    return LINK.sub(lambda link: moved(link, uri), made(markdown))


# --- files of the repository

def outside(uri: str, markdown: str) -> list[str]:
    """The files outside of docs/ that a page links to, as paths in the repository."""
    targets = (posixpath.normpath(posixpath.join(DOCS, posixpath.dirname(uri), link[2]))
               for link in LINK.findall(markdown) if not link[2].startswith("http"))
    return [path for path in targets if not path.startswith(f"{DOCS}/") and (REPOSITORY / path).is_file()]


def add(files: Files, config: MkDocsConfig, path: str, content: str | bytes) -> None:
    uri = uri_of(path)
    if not files.get_file_from_path(uri):
        files.append(File.generated(config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV))


def uri_of(path: str) -> str:
    """Where the site has a file of the repository."""
    return f"{FOLDER}/{path}" + (".md" if Path(path).suffix not in (".md", ".png") else "")


def repository_page(path: str) -> str:
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return UNSEARCHED + text
    fence = "````" if "```" in text else "```"
    return f"{UNSEARCHED}# {path}\n\n{fence}{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}{fence}\n"


def leads(target: str, uri: str, files: Files) -> bool:
    """Whether a link of a page leads somewhere in the site, or out of it."""
    inner = posixpath.normpath(posixpath.join(posixpath.dirname(uri), target))
    return target.startswith("http") or files.get_file_from_path(inner) is not None


def moved(link: re.Match[str], uri: str) -> str:
    """A link to a file outside of docs/, to where the site has that."""
    if not (found := outside(uri, link[0])):
        return link[0]
    here = posixpath.dirname(uri) or "."
    return f"{link[1]}[{link[2]}]({posixpath.relpath(uri_of(found[0]), here)}{link[4] or ''})"


# --- what is made of the code

def made(markdown: str) -> str:
    return MARK.sub(lambda mark: MAKERS[mark[1]](), markdown)


def recipes() -> str:
    """A table of the published recipes, by what their headers say."""
    rows = []
    for file in sorted(RECIPES.glob("*.yaml"), key=lambda file: file.stem):
        header = re.match(r"(#.*\n)+", file.read_text(encoding="utf-8"))
        assert header, f"{file} has no header"
        title, command = (line[1:].strip() for line in header[0].splitlines()[:2])
        expected = re.search(r"Expected: (.+)", header[0])
        told = expected[1] if expected else "not measured" if "Not measured" in header[0] else "see its header"
        path = file.relative_to(REPOSITORY).as_posix()
        rows.append([f"[{file.stem}](../{path})", title.rstrip("."), told.rstrip("."),
                     f"`{command.rpartition(' && ')[2]}`"])
    return table(["recipe", "what", "comes to", "command, once the data are there"], rows)


def verbs() -> str:
    """Each verb's own options."""
    parts = []
    for verb in cli.VERBS:
        parser = parser_of(verb)
        rows = [row for group in parser._action_groups if group.title in VERBS_OWN
                for row in options(group._group_actions)]
        parts += [f"## ms-vit {verb}", parser.description, table(["option", "default", "what"], rows)]
        if verb == "train":
            parts.append("And every key of a recipe, as `--section.key VALUE`: [Keys of a recipe](recipe.md).")
    return "\n\n".join(parts)


def keys() -> str:
    """The keys of a recipe, a table a section."""
    sections = [group for group in parser_of("train")._action_groups if group.title not in VERBS_OWN][1:]
    parts = []
    for name, group in zip(Recipe.__dataclass_fields__, sections, strict=True):
        parts += [f"## {name}", f"{group.title}.", table(["key", "default", "what"], options(group._group_actions))]
    return "\n\n".join(parts)


def notebook() -> str:
    """The cells of the notebook, as a page."""
    cells = json.loads((REPOSITORY / DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    return "\n\n".join(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
                       for cell, text in zip(cells, texts, strict=True))


def parser_of(verb: str) -> Any:
    module = importlib.import_module(f"ms_vit.{verb}")
    return cli.parser_of(getattr(module, verb), arguments=getattr(module, "arguments", None))


def options(actions: list[Any]) -> list[list[str]]:
    """Rows of a table: argparse has no public way to ask a parser for its options."""
    rows = []
    for action in actions:
        if action.dest in ("help", "json", "debug") or type(action).__name__ == "_ActionConfigLoad":
            continue
        name = action.option_strings[0] if action.option_strings else action.dest.upper()
        name = name.removeprefix("--") if "." in name else name
        default = action.default
        if isinstance(default, list):
            default = ", ".join(map(str, default))
        told = "required" if action.required else "" if default in (None, False, "", ()) else f"`{default}`"
        rows.append([f"`{name}`", told, action.help or ""])
    return rows


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


MAKERS: dict[str, Callable[[], str]] = {"recipes": recipes, "verbs": verbs, "keys": keys, "notebook": notebook}
