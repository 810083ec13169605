"""Reading a study file: safe YAML, errors in the words of the file, paths made absolute."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from voxcloud.config.study import Study
from voxcloud.errors import NewerSchemaError, StudyFileError, nearest
from voxcloud.schema import STUDY_SCHEMA


@dataclasses.dataclass(frozen=True)
class LoadedStudy:
    """A study file with its place: relative paths in it mean relative to its folder."""

    study: Study
    path: Path

    def resolve(self, value: str) -> str:
        """Return a path of the study file as an absolute one; URLs are left as they are."""
        if "://" in value:
            return value
        return str((self.path.parent / value).resolve() if not Path(value).is_absolute() else Path(value))


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice: plain YAML would keep the last one without a word."""


def _mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise StudyFileError(
                f"line {key_node.start_mark.line + 1}: the key '{key}' is given twice. Remove one of them."
            )
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_study(path: str | Path) -> LoadedStudy:
    """Read and check a study file.

    Raises
    ------
    StudyFileError
        If the file is missing, not YAML, or has unknown keys or wrong values; the message names the key, what was
        expected and what was found.
    NewerSchemaError
        If the file was written for a newer voxcloud.
    """
    path = Path(path).resolve()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyFileError(
            f"{path}: no such study file. Give the path of a study.yaml (voxcloud simulate makes one)."
        ) from None
    except IsADirectoryError:
        raise StudyFileError(
            f"{path}: expected a study file, found a folder. Give the file in it, e.g. {path / 'study.yaml'}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyFileError(
            f"{path}: expected a study file, UTF-8 text, found that it cannot be read ({error}). Check the file."
        ) from None
    try:
        tree = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as error:
        raise StudyFileError(
            f"{path}: not valid YAML ({' '.join(str(error).split())}). Check the indentation near there."
        ) from None
    except StudyFileError as error:
        raise StudyFileError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        raise StudyFileError(
            f"{path}: expected a mapping with `schema: {STUDY_SCHEMA}` on top, found "
            f"{'an empty file' if tree is None else type(tree).__name__}. Start from the file that voxcloud simulate "
            "makes."
        )
    return LoadedStudy(study=parse_study(tree, str(path)), path=path)


def parse_study(tree: dict[str, Any], where: str) -> Study:
    """Check a study tree that was read from ``where``."""
    version = tree.get("schema")
    if isinstance(version, int) and version > STUDY_SCHEMA:
        raise NewerSchemaError(
            f"{where}: schema {version} is newer than {STUDY_SCHEMA}, the newest that this voxcloud reads. Update "
            "voxcloud."
        )
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        every = error.errors()
        # A list whose entries are wrong counts as empty as well, which helps nobody.
        echoes = [i for i in every if i["type"] == "too_short" and any(_inside(o["loc"], i["loc"]) for o in every)]
        raise StudyFileError(*(f"{where}: {_sentence(item)}" for item in every if item not in echoes)) from None


def _inside(place: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(place) > len(other) and place[: len(other)] == other


def _sentence(item: Any) -> str:
    """Turn one pydantic error into a sentence in the words of the file."""
    loc = tuple(part for part in item["loc"] if part not in ("str", "tuple[str, ...]", "int", "literal['auto']"))
    place = ".".join(str(part) for part in loc) or "study"
    found = item.get("input")
    kind = item["type"]
    if kind == "extra_forbidden":
        key = str(loc[-1])
        valid = _valid_keys(loc[:-1])
        return f"{place}: unknown key.{nearest(key, valid)} Valid keys here: {', '.join(valid)}."
    if kind == "missing":
        return f"{place}: this key is needed. {_describe(loc)}"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(found, dict | list | tuple) or kind == "value_error" else f", found {found!r}"
    return f"{place}: {message}{shown}. {_describe(loc)}".strip()


def _part_at(loc: tuple[Any, ...]) -> type[BaseModel] | None:
    """Find the model class that holds the keys at a place of the tree."""
    here: type[BaseModel] | None = Study
    for part in loc:
        if here is None:
            return None
        if isinstance(part, int):
            continue
        if part not in _fields(here):
            continue  # a name chosen by the user, e.g. of a contrast
        here = _inner_model(_fields(here)[part].annotation)
    return here


def _fields(part: type[BaseModel]) -> dict[str, Any]:
    return {(info.alias or name): info for name, info in part.model_fields.items()}


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _inner_model(inner)
        if found is not None:
            return found
    return None


def _valid_keys(loc: tuple[Any, ...]) -> list[str]:
    part = _part_at(loc)
    return list(_fields(part)) if part is not None else []


def _describe(loc: tuple[Any, ...]) -> str:
    if not loc:
        return ""
    part = _part_at(loc[:-1])
    info = _fields(part).get(str(loc[-1])) if part is not None else None
    return info.description or "" if info is not None else ""
