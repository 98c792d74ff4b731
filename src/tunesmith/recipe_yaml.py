"""YAML read strictly: numbers as people write them, each key once, plain values only, and every key's line known."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import UserError, kind, named, nearest, shown

MAX_BYTES = 4 * 2**20
MAX_NODES = 100_000
"""Values of one document with every alias written out, so that a short text cannot stand for a vast one."""
MAX_DEPTH = 50

Place = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+$")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"(?:~|null|Null|NULL|)$")


class _Loader(yaml.SafeLoader):
    """Plain scalars mean what YAML 1.2 says: `1e-4` is a number, `no`, `12:30` and dates are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes every text that the loader, or a reader of YAML 1.1, would take for something else."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        breaks = any(character in "\x85\u2028\u2029" for character in text)  # read back as spaces outside of "..."
        return self.represent_scalar(_TAG + "str", text, style='"' if breaks else None)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


for _tag, _pattern, _first in (
    ("bool", _BOOL, "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", _NULL, ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _tag, _pattern, list(_first))
_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))


@dataclass
class Document:
    """The values of a YAML text, and where each was written.

    values: plain dicts, lists, texts, numbers, booleans and None. lines: by path of keys and list places.
    overrides: the command-line text that set a path. names: what stands before
    the keys of a path and of what lies below it.
    """

    name: str
    values: dict[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)
    overrides: dict[Place, str] = field(default_factory=dict)
    names: dict[Place, str] = field(default_factory=dict)

    def where(self, path: Place, key: str = "") -> str:
        """The place of `path` for a message: the command line, or the file, the nearest known line, and `key`."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.overrides:
                return f"command line, {shown(self.overrides[path[:end]])[1:-1]}"
        if path and path not in self.lines:
            for place, text in self.overrides.items():
                if place[: len(path)] == path:
                    return f"command line, {shown(text)[1:-1]}"
        outward = [path[:end] for end in range(len(path), -1, -1)]
        line = next((self.lines[place] for place in outward if place in self.lines), None)
        before = next((self.names[place] for place in outward if place in self.names), "")
        key = ".".join(filter(None, (before, key)))
        return self.name + (f", line {line}" if line is not None else "") + (f", {key}" if key else "")


def read_yaml(text: str, name: str) -> Document:
    """The mapping that `text` holds. Raises UserError naming the line of whatever is not plain, strict YAML."""
    node = _composed(text, name)
    if node is None:
        raise UserError(name, "is empty", "`tunesmith new DATA` writes a recipe to start from")
    document = Document(name, {})
    values = _Reading(document).value(node, ())
    if not isinstance(values, dict):
        raise UserError(name, f"holds {kind(values)}, not `key: value` lines", "")
    document.values = values
    return document


def read_value(text: str, name: str) -> Any:
    """The one value that `text` holds, as it would be read in a recipe."""
    node = _composed(text, name)
    return None if node is None else _Reading(Document(name, {})).value(node, ())


def write_yaml(values: Mapping[str, Any]) -> str:
    """The text that `read_yaml` reads back as equal values, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def write_value(value: Any) -> str:
    """One plain value on one line, as it can stand after `key: ` or `key=`."""
    flow = isinstance(value, list | tuple | dict)
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.dump({"": value}, Dumper=_Dumper, default_style=style, default_flow_style=flow, width=math.inf)
    return text.strip().removeprefix("{").removesuffix("}" if flow else "").partition(":")[2].strip()


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises UserError for what is missing, no file, too large, or no text."""
    if not path.exists():
        near = [other.name for other in path.parent.iterdir() if other.is_file()] if path.parent.is_dir() else []
        hint = nearest(path.name, near)
        raise UserError(named(path), "no such file", hint if hint.startswith("did you mean") else "")
    if not path.is_file():
        raise UserError(str(path), "is not a file", "give a recipe, such as recipe.yaml")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(str(path), f"is not UTF-8 text (byte {error.start})", "save it as UTF-8") from error
    if len(data) > MAX_BYTES:
        raise UserError(str(path), f"is larger than {MAX_BYTES // 2**20} MiB", "is this a data file?")
    return text


def _composed(text: str, name: str) -> yaml.Node | None:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node: yaml.Node | None = loader.get_single_node()
        return node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = error.problem or "it ends too soon"
        fix = "indent with spaces" if r"\t" in problem else "quote texts that hold ': ', ' #', or begin with a sign"
        raise UserError(name + line, f"not valid YAML: {shown(problem, 120)[1:-1]}", fix) from error
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        found = f"the character {shown(text[error.position])} is not allowed"
        raise UserError(f"{name}, line {number}", found, "is this a text file?") from error
    except RecursionError as error:
        raise UserError(name, f"is nested deeper than {MAX_DEPTH} levels") from error
    finally:
        if loader is not None:
            loader.dispose()


class _Reading:
    """Makes plain values of nodes, noting each line, and counting so that aliases cannot multiply without end."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes = 0

    def value(self, node: yaml.Node, path: Place) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._refused(node, f"stands for more than {MAX_NODES} values")
        if len(path) > MAX_DEPTH:
            raise self._refused(node, f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            for place, item in enumerate(node.value):
                self.document.lines[*path, place] = item.start_mark.line + 1
            return [self.value(item, (*path, place)) for place, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise self._tagged(node)

    def _mapping(self, node: yaml.MappingNode, path: Place) -> dict[str, Any]:
        first: dict[str, int] = {}
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key_node.tag != _TAG + "str":
                found = f"{shown(key)} is no text" if isinstance(key, str) else "a list or mapping"
                raise self._refused(key_node, f"{found} and cannot be a key", "write a text, in quotes if need be")
            line = key_node.start_mark.line + 1
            if key in first:
                found = f"key {shown(key)} is written twice, first on line {first[key]}"
                raise self._refused(key_node, found, "keep one")
            first[key] = self.document.lines[*path, key] = line
            values[key] = self.value(value_node, (*path, key))
        return values

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        tag, text = node.tag.removeprefix(_TAG), node.value
        patterns = {"int": _INT, "float": _FLOAT, "bool": _BOOL, "null": _NULL}
        if tag == "str":
            if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
                raise self._refused(node, f"{shown(text)} holds characters that no text file can")
            return text
        if tag not in patterns:
            raise self._tagged(node)
        if not patterns[tag].match(text) or len(text) > 400:
            raise self._refused(node, f"{shown(text)} is not a value of the kind {tag}")
        if tag == "bool":
            return text.lower() == "true"
        return None if tag == "null" else int(text) if tag == "int" else float(text)

    def _tagged(self, node: yaml.Node) -> UserError:
        tag = node.tag.replace(_TAG, "!!")
        return self._refused(node, f"the tag {shown(tag)} is not allowed", "write plain values")

    def _refused(self, node: yaml.Node, found: str, fix: str = "") -> UserError:
        return UserError(f"{self.document.name}, line {node.start_mark.line + 1}", found, fix)
