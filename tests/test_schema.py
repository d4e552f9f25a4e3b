"""YAML of strangers: what is no plain mapping of plain values is told in a line, before it is anything."""

import os

import pytest
from packing import HACK, ODDITIES, cases, put, refusal

from ms_vit import limits
from ms_vit.errors import UsageError
from ms_vit.schema import read_yaml

STEPS = list(zip("abcdefgh", "bcdefghi", strict=True))
LAUGHS = "a: &a [lol, lol, lol]\n" + "".join(f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in STEPS)
MERGES = "a: &a {x: 1}\n" + "".join(f"{new}: &{new} {{<<: [{','.join(['*' + old] * 9)}]}}\n" for old, new in STEPS)


@pytest.mark.parametrize(("content", "says"), cases({
    "empty": ("", 'must hold "key: value" lines'),
    "a list": ("- a\n- b\n", 'must hold "key: value" lines'),
    "a word": ("hello", 'must hold "key: value" lines'),
    "two documents": ("train: {epochs: 1}\n---\ntrain: {epochs: 2}\n", "no valid YAML"),
    "not closed": ("train: {epochs: 1\nmodel: [", "no valid YAML at line 2"),
    "tabs": ("train:\n\tepochs: 1\n", "no valid YAML at line 2"),
    "a call": (f'name: !!python/object/apply:eval ["{HACK}"]\n', "no valid YAML at line 1"),
    "a new object": ('name: !!python/object/new:os.system ["touch hacked"]\n', "no valid YAML at line 1"),
    "a module": ("name: !!python/module:antigravity\n", "no valid YAML at line 1"),
    "a name": ("name: !!python/name:os.system\n", "no valid YAML at line 1"),
    "an unknown tag": ("name: !Ref x\n", "no valid YAML at line 1"),
    **{f"a tag that lies: {lie}": (f"name: {lie}\n", "no valid YAML") for lie in (
        "!!int hello", "2020-99-99", "!!timestamp x", "!!bool x")},
    "a billion laughs": (LAUGHS, "is an alias; write it out"),
    "a billion merges": (MERGES, "is an alias; write it out"),
    "itself": ("name: &a [*a]\n", "is an alias; write it out"),
    "one level too deep": ("a: " + "[" * 15 + "1" + "]" * 15, "at line 1 (is nested too deeply)"),
    "deep lists": ("name: " + "[" * 100_000, "is nested too deeply"),
    "deep mappings": ("{a: " * 50_000, "is nested too deeply"),
    "deep indents": ("".join(f"{' ' * depth}a:\n" for depth in range(1200)), "is nested too deeply"),
    "an endless number": ("name: " + "9" * 100_000, "no valid YAML"),
    "a list for a key": ("? [a, b]\n: 1\n", "no valid YAML"),
    "a key twice": ("name: a\nname: b\n", "at line 1 (has a key twice)"),
    "a key twice, further in": ("a:\n  b: {c: 1, c: 1}\n", "at line 2 (has a key twice)"),
    "UTF-16": ("name: ü\n".encode("utf-16"), "no valid YAML"),
    "Latin-1": ("name: ü\n".encode("latin1"), "no valid YAML"),
    "zeros": (bytes(1000), "no valid YAML"),
    "a control character": (b"name: \x1b[2J\n", "no valid YAML"),
    "a zip": (b"PK\x03\x04" + bytes(30), "no valid YAML"),
    "one byte too large": (b"#" * (limits.MAX_YAML_BYTES + 1), "is too large for a YAML of ours (1,000,001 bytes)"),
    "nothing": (ODDITIES["nothing"], "can't read"),
    "a loop": (ODDITIES["a loop"], "can't read"),
    **{name: (ODDITIES[name], "is no file; give the path") for name in ("a folder", "a pipe", "a device")},
}))
def test_what_is_no_mapping_of_plain_values_is_told_in_a_line(content, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)     # where code of a file would leave its mark
    text = refusal(read_yaml, put(tmp_path / "my.yaml", content), UsageError)
    assert "my.yaml" in text and says in text


@pytest.mark.parametrize(("content", "values"), [
    (b"\xef\xbb\xbfa: {b: [1, 2.5, yes, null]}\r\n", {"a": {"b": [1, 2.5, True, None]}}),       # as Windows saves it
    ("a: " + "[" * 14 + "1" + "]" * 14, {"a": [[[[[[[[[[[[[[1]]]]]]]]]]]]]]}),
    ("a: [[1], [2]]\nb: {c: {d: 1}, e: {d: 1}}", {"a": [[1], [2]], "b": {"c": {"d": 1}, "e": {"d": 1}}}),
    (b"a: 1 #".ljust(limits.MAX_YAML_BYTES, b"#"), {"a": 1})])
def test_a_mapping_is_read_up_to_the_bounds(content, values, tmp_path):
    assert read_yaml(put(tmp_path / "my.yaml", content)) == values


def test_a_link_to_a_yaml_is_followed(tmp_path):
    os.symlink(put(tmp_path / "other.yaml", "a: 1"), tmp_path / "my.yaml")
    assert read_yaml(tmp_path / "my.yaml") == {"a": 1}
