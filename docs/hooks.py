"""What pages of the site are given when it is built: the recipes, the verbs, and links that lead out of docs/."""

import importlib
import os
import re
from pathlib import Path
from typing import Any

from ms_vit import cli

RECIPES = Path(__file__).parents[1] / "ms_vit" / "recipes"


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = markdown.replace("<!-- recipes -->", recipes()).replace("<!-- verbs -->", verbs())
    # The site holds docs/ alone: what lies elsewhere in the repository is named by its path.
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", markdown)


def recipes() -> str:
    """A row a recipe: its name, what it is, what it comes to, from its header."""
    rows = ["| recipe | what it is | test top-1 |", "| :-- | :-- | :-- |"]
    for file in sorted(RECIPES.glob("*.yaml")):
        header = [line.removeprefix("# ") for line in file.read_text().splitlines() if line.startswith("# ")]
        expected = re.search(r"Expected: (?:test top-1 )?(.*?\(\d seeds?\))", "\n".join(header))
        told = expected[1] if expected else "told in its header" if "%" in "".join(header) else "not measured"
        rows.append(f"| `{file.stem}` | {header[0].replace('|', '/')} | {told} |")
    return "\n".join(rows)


def verbs() -> str:
    """A section a verb: what it does, and what its --help says."""
    sections = []
    os.environ["COLUMNS"] = "100"       # the width of --help, whoever builds
    for verb, does in cli.VERBS.items():
        parser = parser_of(verb)
        sections.append(f"## {verb}\n\n{does[0].upper()}{does[1:]}.\n\n```text\n{parser.format_help().strip()}\n```\n")
    return "\n".join(sections)


def parser_of(verb: str) -> Any:
    """What parses the command line of `ms-vit VERB`."""
    module = importlib.import_module(f"ms_vit.{verb}")
    return cli.parser_of(getattr(module, verb), arguments=getattr(module, "arguments", None))
