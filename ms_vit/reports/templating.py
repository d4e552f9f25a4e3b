"""The pages' templates: one file each, with styles and script inside, and all that comes from outside escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, **shown: Any) -> str:
    """A page, whole: it asks for nothing else from anywhere."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda value: "" if value is None else f"{100 * value:.1f}"
    environment.filters["number"] = lambda value: "" if value is None else f"{value:,}"
    text = environment.get_template(template).render(**shown)
    return text.encode("utf-8", "backslashreplace").decode()       # a file's name needn't be UTF-8
