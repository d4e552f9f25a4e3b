"""docs/architecture.md and the code tell of the same house."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from conftest import REPOSITORY

PACKAGE = REPOSITORY / "ms_vit"
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()
ROOMS = {room: re.findall(r"`([\w/]+\.py)`", "\n".join(line for line in text.splitlines() if line.startswith("- ")))
         for room, text in re.findall(r"^### (\w+):.*?$(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE)}
LISTED = {module: rank for rank, modules in enumerate(ROOMS.values()) for module in modules}
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def rank_of(module: str) -> int:
    """A package's own __init__ stands in its room."""
    if module in LISTED:
        return LISTED[module]
    if module == "__init__.py":
        return len(ROOMS)
    return next(rank for listed, rank in LISTED.items() if listed.startswith(f"{Path(module).parent.as_posix()}/"))


def module_of(name: str) -> str | None:
    """ms_vit.data.folder -> data/folder.py; None for what is no module."""
    path = name.removeprefix("ms_vit").lstrip(".").replace(".", "/")
    return next((found for found in (f"{path}.py", f"{path}/__init__.py".lstrip("/")) if found in MODULES), None)


def imports(module: str) -> set[str]:
    """The modules of ours that one names in an import, wherever in it that stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ms_vit":
            inner = {module_of(f"{node.module}.{alias.name}") for alias in node.names}
            # "from ms_vit.data import images" asks for the module, and for nothing of the package itself.
            found |= inner if None not in inner else inner | {module_of(node.module)}
        elif isinstance(node, ast.Import):
            found |= {module_of(alias.name) for alias in node.names if alias.name.split(".")[0] == "ms_vit"}
    return {name for name in found if name and name != module}


def test_the_page_lists_every_module_once():
    listed = [module for modules in ROOMS.values() for module in modules]
    assert len(listed) == len(set(listed))
    assert set(listed) == {module for module in MODULES if not module.endswith("__init__.py")}


def test_files_and_tests_that_the_page_names_are_there():
    for link in re.findall(r"\]\(([\w./]+)\)", PAGE):
        assert (REPOSITORY / "docs" / link).is_file(), link
    for name in re.findall(r"`(tests/\w+\.py)`", PAGE):
        assert (REPOSITORY / name).is_file(), name


def test_imports_run_downward():
    # The package's own version is everybody's.
    assert not [f"{module} imports {name}" for module in MODULES for name in imports(module)
                if rank_of(name) > rank_of(module) and name != "__init__.py"]


def test_nothing_imports_in_a_circle():
    TopologicalSorter({module: imports(module) - {"__init__.py"} for module in MODULES}).prepare()
