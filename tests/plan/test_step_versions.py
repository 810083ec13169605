"""A step whose source changed has a new version, or somebody signed that its numbers are the same.

A fingerprint holds a step's version and not its source: without this a mended step would leave old results in place.
``tests/plan/step_sources.json`` holds for each step its version, a hash of everything that makes its numbers, and a
note. After a change:

    python tests/plan/test_step_versions.py              # raised the step's version in voxcloud/plan/unit.py
    python tests/plan/test_step_versions.py "why the numbers are the same, and who says so"
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from voxcloud.pipeline.steps import STEPS
from voxcloud.plan.unit import STEP_VERSIONS

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("step_sources.json")
COMMAND = "python tests/plan/test_step_versions.py"

# Modules that make no number by themselves: names, plans, storage of bytes that are checked elsewhere, words. The
# plan's numbers are in the design file, which is named by its content and an input of every fit.
NO_NUMBERS = (
    "voxcloud.config",
    "voxcloud.errors",
    "voxcloud.pipeline.engines",
    "voxcloud.pipeline.execute",
    "voxcloud.plan",
    "voxcloud.report",
    "voxcloud.storage.digests",
    "voxcloud.storage.folder",
    "voxcloud.storage.lease",
    "voxcloud.storage.records",
    "voxcloud.storage.store",
    "voxcloud.testing",
)


@functools.cache
def module_path(name: str) -> Path | None:
    """Return the file of a module of ours."""
    base = ROOT.joinpath(*name.split("."))
    found = [base.with_suffix(".py"), base / "__init__.py"]
    return next((path for path in found if path.is_file()), None)


@functools.cache
def parsed(path: Path) -> tuple[dict[str, ast.stmt], dict[str, tuple[str, str]]]:
    """Return what a module defines, and what it takes from others of ours."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return definitions(tree), imports(tree)


def definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    """Return what a module defines at its top level, by name."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {t.id: node for target in node.targets for t in ast.walk(target) if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def imports(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Return the names that a module takes from others of ours: name to (module, name there)."""
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("voxcloud")
        for alias in node.names
    }


def normal(node: ast.AST) -> str:
    """Return a definition without comments, formatting, docstrings, annotations and messages of errors."""
    tree = ast.parse(ast.unparse(node))
    for part in ast.walk(tree):
        if isinstance(part, ast.FunctionDef | ast.ClassDef | ast.Module) and part.body:
            first = part.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(part.body) > 1:
                part.body = part.body[1:]
        if isinstance(part, ast.FunctionDef):
            part.returns = None
            for argument in (*part.args.args, *part.args.kwonlyargs, *part.args.posonlyargs):
                argument.annotation = None
        if isinstance(part, ast.Raise):
            part.exc = part.cause = None
    return ast.dump(tree, include_attributes=False)


@functools.cache
def normal_of(path: Path, name: str) -> str:
    """Return a module's definition as ``normal`` does."""
    return normal(parsed(path)[0][name])


def reached(module: str, name: str, seen: dict[tuple[str, str], str]) -> None:
    """Collect everything of ours that a definition uses, directly or not."""
    path = module_path(module)
    if path is None or (module, name) in seen or module.startswith(NO_NUMBERS):
        return
    own, foreign = parsed(path)
    if name not in own:
        if name in foreign:
            reached(*foreign[name], seen)
        return
    seen[(module, name)] = normal_of(path, name)
    for used in names(own[name]):
        if used in own:
            reached(module, used, seen)
        elif used in foreign:
            reached(*foreign[used], seen)


def names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a definition uses."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id


def source_of(step: str) -> dict[str, str]:
    """Return "module:name" to a hash of each definition that makes a step's numbers."""
    function = STEPS[step]
    seen: dict[tuple[str, str], str] = {}
    reached(function.__module__, function.__name__, seen)
    return {f"{m}:{n}": hashlib.sha256(text.encode()).hexdigest()[:12] for (m, n), text in sorted(seen.items())}


def hash_of(step: str) -> str:
    """Return one hash of everything that makes a step's numbers."""
    return hashlib.sha256(json.dumps(source_of(step), sort_keys=True).encode()).hexdigest()[:16]


def table() -> dict[str, dict[str, str | int]]:
    """Return what was signed."""
    found: dict[str, dict[str, str | int]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("step", STEP_VERSIONS)
def test_step_versions__a_changed_source_has_a_new_version_or_a_signed_note(step: str) -> None:
    signed = table()[step]
    assert signed["version"] == STEP_VERSIONS[step], (
        f"{step}: version {STEP_VERSIONS[step]} in voxcloud/plan/unit.py, {signed['version']} in {TABLE.name}. "
        f"Run: {COMMAND}"
    )
    assert signed["hash"] == hash_of(step), (
        f"the source that makes the numbers of {step} changed. If they change for a given input, raise its version in "
        f"voxcloud/plan/unit.py and run: {COMMAND}\nIf they do not, sign it: {COMMAND} 'why, and who says so'"
    )


def test_step_versions__every_step_is_signed_with_a_note_and_none_more() -> None:
    assert list(table()) == list(STEP_VERSIONS) == list(STEPS)
    assert all(str(entry["note"]).strip() for entry in table().values())


def test_source_of__finds_what_makes_the_numbers() -> None:
    fit = source_of("fit-block")
    assert {"voxcloud.pipeline.fitting:fit_block", "voxcloud.pipeline.fitting:first_level"} <= set(fit)
    assert {"voxcloud.models.ols:fit_ols", "voxcloud.storage.stack:read_block"} <= set(fit)
    assert "voxcloud.inference.random_field:resels" not in fit
    shard = source_of("stack-shard")
    assert {"voxcloud.bids.images:read_masked", "voxcloud.storage.stack:write_shard"} <= set(shard)
    assert not any(name.startswith("voxcloud.models") for name in shard)


def test_normal__sees_numbers_and_not_words() -> None:
    def text(source: str) -> str:
        return normal(ast.parse(source).body[0])

    base = text("def f(x):\n    return 2 * x")
    assert text('def f(x: int) -> int:\n    """Words."""\n    return (2 *   x)  # twice') == base
    assert text("def f(x):\n    return 3 * x") != base
    assert text("def f(x):\n    if x: raise E('a')\n    return x") == text(
        "def f(x):\n    if x: raise E('b')\n    return x"
    )


def sign(note: str) -> None:
    """Write the table anew; steps whose source changed get the note."""
    before = table() if TABLE.exists() else {}
    after: dict[str, dict[str, str | int]] = {}
    for step, version in STEP_VERSIONS.items():
        now: dict[str, str | int] = {"version": version, "hash": hash_of(step)}
        old = before.get(step, {})
        if {k: old.get(k) for k in now} == now:
            after[step] = old
        elif old.get("version") == version and not note:
            raise SystemExit(
                f"{step}: changed, and its version is still {version}. Raise it, or say why not: "
                f"{COMMAND} 'why the numbers are the same, and who says so'"
            )
        else:
            after[step] = {**now, "note": note or "new version"}
    TABLE.write_text(json.dumps(after, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sign(" ".join(sys.argv[1:]))
