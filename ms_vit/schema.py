"""YAML into dataclasses: every key is known, every value has its type, or one line says which is not."""

import dataclasses
import difflib
import re
import stat
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from ms_vit import limits
from ms_vit.errors import UsageError

T = TypeVar("T")


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, for files of strangers: no aliases (ten lines of them make gigabytes), no key twice."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > limits.MAX_YAML_DEPTH or self.check_event(yaml.AliasEvent):
            what = "is nested too deeply" if self.depth > limits.MAX_YAML_DEPTH else "is an alias; write it out"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.MarkedYAMLError(problem="has a key twice", problem_mark=node.start_mark)
        return mapping


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read without its constructors for arbitrary objects."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):     # a pipe would never end
            raise UsageError(f"{path} is no file; give the path of a YAML")
        if found.st_size > limits.MAX_YAML_BYTES:
            raise UsageError(f"{path} is too large for a YAML of ours ({found.st_size:,} bytes)")
        values = yaml.load(path.read_text(encoding="utf-8-sig"), Loader)
    except OSError as error:
        raise UsageError(f"can't read {path}: {(error.strerror or str(error)).lower()}") from error
    except UsageError:
        raise
    except Exception as error:  # a value that isn't what its tag or its look says makes PyYAML raise nearly anything
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f" at line {mark.line + 1}{f' ({problem})' if problem else ''}" if mark else ""
        raise UsageError(f"{path} is no valid YAML{where}; look for a missing colon, quote or indent") from error
    if not isinstance(values, dict):
        raise UsageError(f'{path} must hold "key: value" lines')
    return values


def keys_of(cls: type) -> dict[str, type | None]:
    """Every key of a dataclass tree: "optimizer.lr" -> None for a value, "optimizer" -> its dataclass for a section."""
    keys: dict[str, type | None] = {}
    for field in dataclasses.fields(cls):
        section = field.type if isinstance(field.type, type) and dataclasses.is_dataclass(field.type) else None
        keys[field.name] = section
        if section:
            keys |= {f"{field.name}.{key}": inner for key, inner in keys_of(section).items()}
    return keys


def may_be_none(cls: type) -> set[str]:
    """The keys of a dataclass tree whose values may be left out by null."""
    return {key for field in dataclasses.fields(cls) for key in (
        {f"{field.name}.{inner}" for inner in may_be_none(field.type)}
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type)
        else {field.name} if type(None) in get_args(field.type) else set())}


def flatten(values: dict[str, Any], cls: type, where: str) -> dict[str, Any]:
    """{"optimizer": {"lr": 1}} -> {"optimizer.lr": 1}; keys that `cls` doesn't have or without a value are an error."""
    known, optional = keys_of(cls), may_be_none(cls)
    flat: dict[str, Any] = {}

    def walk(prefix: str, section: dict[str, Any]) -> None:
        for name, value in section.items():
            key = f"{prefix}{name}"
            if key not in known:
                raise UsageError(unknown_key(key, known, where))
            if known[key] is None and value is None and key not in optional:    # jsonargparse would take it
                raise UsageError(f'"{key}" in {where} has no value; give it one, or leave it out')
            elif known[key] is None:
                flat[key] = value
            elif isinstance(value, dict):
                walk(f"{key}.", value)
            else:
                raise UsageError(f'"{key}" in {where} is a section; give it keys, not {value!r}')

    walk("", values)
    return flat


def unknown_key(key: str, known: dict[str, type | None], where: str) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f'unknown key "{key}" in {where}' + (f'; did you mean "{near[0]}"?' if near else "")


def parser_of(cls: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls)
    return parser


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """An instance of a dataclass tree from nested or dotted keys; `where` is named in errors."""
    parser = parser_of(cls)
    try:
        return cls(**parser.instantiate(parser.parse_object(flatten(values, cls, where))).as_dict())
    except ArgumentError as error:
        raise UsageError(f"{explain(error)} in {where}") from error


def explain(error: ArgumentError) -> str:
    """jsonargparse's report of a value of the wrong type, in one line."""
    text = " ".join(str(error).split()).removeprefix("Parser key ").rstrip(".")
    several = r"(.+?): Does not validate .*? Errors: (.+?) Given value type: .*? Given value: (.*)"
    if union := re.fullmatch(several, text):
        kinds = [kind for kind in re.findall(r"- Expected an? (.+?)(?= - |$)", union[2]) if "NoneType" not in kind]
        text = f"{union[1]}: Expected a {' or '.join(kinds)}. Got value: {union[3]}"
    text = re.sub(r": Expected an? (.+?)\. Got value: ", r": expected \1, got ", text)
    return re.sub(r"<class '(\w+)'>", r"\1", re.sub(r"typing\.Literal\[(.+?)\]", r"\1", text))
