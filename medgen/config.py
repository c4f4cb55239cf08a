"""Read settings from a YAML file and ``key=value`` overrides, and check them.

An unknown key is an error that suggests the closest valid key. The section ``method`` is an instance of the class
``Settings`` of the method's file and is passed to the method; of other sections, functions take single values.
"""

import difflib
import itertools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from medgen.errors import InputError
from medgen.io.text import read_text
from medgen.methods import settings_class
from medgen.methods.base import MethodSettings
from medgen.settings import Settings

MOST_VALUES, MOST_DEEP = 100_000, 50  # values and nesting depth of a YAML file; more can only be an attack
MOST_YAML = 2**22  # bytes
M = TypeVar("M", bound=BaseModel)


SHIPPED = (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")  # installed, or in a checkout


def configs() -> dict[str, str]:
    """The training configs that come with medgen: {name: first sentence of the file's comment}, sorted by name."""
    folder = next((folder for folder in SHIPPED if folder.is_dir()), SHIPPED[0])
    files = sorted([*folder.glob("*.yaml"), *(folder / "paper").glob("*.yaml")])
    return {file.relative_to(folder).with_suffix("").as_posix(): _about(file) for file in files}


def _about(file: Path) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.lstrip("# ") for line in lines)
    return textwrap.shorten(text.partition(". ")[0], 100, placeholder=" ...")


def config_file(config: str | Path) -> Path:
    """The path of a config: an existing file, or one of ``configs`` by name, with or without configs/ and .yaml.

    Raises:
        InputError: neither; suggests the closest name.
    """
    path = Path(config)
    if path.exists() and not path.is_dir():
        return path
    known = configs()
    name = path.as_posix().removesuffix(".yaml").removeprefix("configs/")
    if name in known:
        return next(file for folder in SHIPPED if (file := folder / f"{name}.yaml").is_file())
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    near = f"did you mean {close[0]}?" if close else "run medgen configs to list them"
    raise InputError(
        "config-missing", f"{config} is neither a file nor the name of a config that comes with medgen; {near}"
    )


def load_settings(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> Settings:
    """Read a YAML file and apply ``section.key=value`` overrides (values are parsed as YAML).

    Raises:
        InputError: missing or malformed file, unknown key (suggests the closest one), wrong type or range.
    """
    try:
        values = read_yaml(read_text(path, MOST_YAML))
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            "config-unreadable", f"config {path} cannot be read: {error.strerror}; give the path of a YAML file"
        ) from None
    except ValueError as error:
        raise InputError(
            "config-not-yaml", f"config {path} is not valid YAML; correct it: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, dict):
        raise InputError(
            "config-not-sections",
            f"config {path} must consist of sections (data:, method:, train:, ...), but is a {type(values).__name__}; "
            "see configs/ for examples",
        )
    for text in overrides:
        _override(values, text)
    return parse_settings(values, str(path))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that duplicate keys are refused; PyYAML silently takes the last one."""

    def compose_mapping_node(self, anchor: dict[Any, Any]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        known = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in known:
                    line = key.start_mark.line + 1
                    raise ValueError(f"the key {key.value} occurs twice in one section (line {line}); remove one")
                known.add(key.value)
        return node


# Numbers as YAML 1.2 and people read them: in PyYAML's YAML 1.1, 010 is 8 and 1:30 is 90.
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$",
    "tag:yaml.org,2002:float": r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$"
    r"|\.(nan|NaN|NAN)$",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in _NUMBERS]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list("-+.0123456789"))


def read_yaml(text: str) -> Any:
    """Parse a YAML text with the safe loader.

    Raises:
        ValueError: invalid YAML, duplicate keys, too deep nesting, a NUL character in a string, or anchors that expand
            to too many values.
    """
    try:
        values = yaml.load(text, _Loader)  # _Loader is a safe loader
        if _count(values, {}, 0) > MOST_VALUES:
            raise ValueError("its anchors expand to too many values")
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return values


def _count(value: Any, known: dict[int, int], depth: int) -> int:
    """Number of values within ``value``; an anchored value counts at every reference, but is traversed once."""
    if isinstance(value, str) and "\0" in value:
        raise ValueError("a string in it contains a NUL character")
    if not isinstance(value, dict | list):
        return 1
    if depth > MOST_DEEP:
        raise ValueError(f"it is nested more than {MOST_DEEP} levels deep")
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known, depth + 1) for part in parts)
    return known[id(value)]


def parse_settings(values: dict[str, Any], where: str) -> Settings:
    """Check a nested dict of settings.

    Args:
        where: name of the source of the values, for error messages.

    Raises:
        InputError: unknown key, wrong type or range, or contradicting values.
    """
    if isinstance(values.get("method"), dict):
        values = {**values, "method": _parse_method(values["method"], where)}
    return check(Settings, values, where)


def _parse_method(values: dict[str, Any], where: str) -> MethodSettings:
    if "name" not in values:
        raise InputError("config-method-missing", f"{where}: method.name is missing; see configs/ for examples")
    return check(settings_class(values["name"], where), values, where, prefix="method.")


def check(model: type[M], values: dict[str, Any], where: str, prefix: str = "") -> M:
    """Validate ``values``. Raises InputError for the first fault."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        place = [str(part) for part in fault["loc"] if "[" not in str(part)]  # without types such as tuple[str, ...]
        key = ".".join((*prefix.split(".")[:-1], *place))
        if fault["type"] == "extra_forbidden":
            raise InputError(
                "config-unknown-key", f"{where}: unknown key {key}{_nearest(model, fault['loc'], prefix)}"
            ) from None
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "model_type":
            inner = (name for name, _ in _keys(model) if f"{prefix}{name}".startswith(f"{key}."))
            message = f"this is a section; set its keys, e.g. {prefix}{next(inner, 'name')}"
        if fault["type"] in ("tuple_type", "list_type"):
            message = "give a list, such as [a] or [a, b]"
        message = message[0].lower() + message[1:]
        actual = "" if isinstance(fault["input"], dict) else f" = {repr(fault['input'])[:200]}"
        raise InputError(
            "config-invalid-value", f"{where}: {key}{actual}: {message}" if key else f"{where}: {message}"
        ) from None


def _nearest(model: type[BaseModel], location: tuple[int | str, ...], prefix: str) -> str:
    """Suggest a key for an unknown one: a similar key in the same section, or one of that name in another section."""
    unknown, section = str(location[-1]), prefix + "".join(f"{part}." for part in location[:-1])
    keys = {f"{prefix}{key}": docstring for key, docstring in _keys(model)}
    if prefix:  # the key is in the method's section and may belong to another section
        keys |= dict(_keys(Settings))
    here = [key.removeprefix(section) for key in keys if key.startswith(section) and "." not in key[len(section) :]]
    elsewhere = [key for key in keys if key.rpartition(".")[0] + "." != section]

    def close(cutoff: float) -> list[str]:
        return [section + name for name in difflib.get_close_matches(unknown, here, n=1, cutoff=cutoff)]

    suggestions = (
        close(0.8)
        or [key for key in elsewhere if _means(unknown, key.rpartition(".")[2], keys[key])]
        or [key for key in elsewhere if difflib.get_close_matches(unknown, [key.rpartition(".")[2]], cutoff=0.8)]
        or close(0.5)
    )
    if suggestions:
        return f"; did you mean {' or '.join(suggestions)}?"
    return f"; known keys: {', '.join(section + name for name in here)}"


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a section and its subsections, each with the docstring of its own section."""
    for name, field in section.model_fields.items():
        yield prefix + name, section.__doc__ or ""
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        for part in (a for a in inner if issubclass(a, BaseModel)):
            yield from _keys(part, f"{prefix}{name}.")


def _means(unknown: str, name: str, docstring: str) -> bool:
    """Whether an unknown key is ``name`` with extra words that all occur in the docstring of its section."""
    words, own = set(unknown.split("_")), set(name.split("_"))
    return own <= words <= own | set(re.findall(r"[a-z]+", docstring))


def _override(values: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise InputError(
            "config-override-form", f"override {text!r} must have the form section.key=value, e.g. train.steps=100"
        )
    *path, last = key.strip().split(".")
    node: Any = values
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise InputError(
                "config-override-not-section", f"override {text!r}: {part} is a value, not a section; use its own key"
            )
    try:
        node[last] = read_yaml(value)
    except ValueError:
        node[last] = value


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON values (paths as strings)."""
    return settings.model_dump(mode="json")
