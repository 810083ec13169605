"""Rules that hold for the whole repository."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAX_LINES = 500
MAX_BYTES = 1_000_000
CHANGE_NAME = re.compile(r"^\d+(\.\d+)?\.(feature|bugfix|doc|removal|misc)\.md$")
DECISION_SECTIONS = ("## Context", "## Options", "## Decision", "## What would change our mind")
# Written so that this file does not hold the words that it looks for.
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
PARTICIPANT_WORD = re.compile(r"(?<![a-z])sub" + r"jects?(?![a-z])", re.IGNORECASE)
ADDRESSES = re.compile(r"(--index-url|--extra-index-url|--find-links|index-url\s*=|pypi\.org|pythonhosted)")
LOCAL_PATHS = re.compile(r"(?<![\w./-])/(work|root|opt/pypi|opt/wheels)(/|\b)")


def _tracked() -> tuple[Path, ...]:
    """Files of the repository, those not yet committed too, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


FILES = _tracked()
PYTHON = tuple(path for path in FILES if path.suffix == ".py")
CODE = tuple(path for path in PYTHON if path.relative_to(ROOT).parts[0] in ("voxcloud", "flows", "infra"))


def _texts() -> Iterator[tuple[str, str]]:
    for path in FILES:
        name = str(path.relative_to(ROOT))
        if name.startswith("tests/reference/") or name in LOCKS:
            continue
        try:
            yield name, path.read_text()
        except UnicodeDecodeError:
            continue


def _lock(name: str) -> dict[str, tuple[Version, int]]:
    """Version and number of hashes by package."""
    entries: dict[str, tuple[Version, int]] = {}
    current = ""
    for line in (ROOT / name).read_text().splitlines():
        if found := re.match(r"^([A-Za-z0-9._-]+)(?:\[[^\]]+\])?==([^\s;\\]+)(?:\s*;[^\\]*)?\s*\\$", line):
            current = canonicalize_name(found.group(1))
            assert current not in entries, f"{name}: {current} is locked twice"
            entries[current] = (Version(found.group(2)), 0)
        elif re.match(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$", line):
            version, hashes = entries[current]
            entries[current] = (version, hashes + 1)
        else:
            raise AssertionError(f"{name}: a line that is neither a pinned package nor a hash: {line!r}")
    return entries


def test_modules__none_is_too_long() -> None:
    long = {str(p.relative_to(ROOT)): n for p in PYTHON if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert long == {}


def test_modules__none_is_a_drawer_for_odds_and_ends() -> None:
    drawers = ("utils", "util", "helpers", "helper", "common", "misc")
    assert [str(p.relative_to(ROOT)) for p in PYTHON if p.stem.strip("_") in drawers or p.parent.name in drawers] == []


def test_texts__nothing_is_left_unfinished() -> None:
    found = [f"{name}: {match.group()}" for name, text in _texts() for match in UNFINISHED.finditer(text)]
    assert found == []


def test_texts__no_index_address_and_no_local_path() -> None:
    found = [
        f"{name}: {match.group()}"
        for name, text in _texts()
        if name not in ("tests/test_repository.py", "Makefile")
        for pattern in (ADDRESSES, LOCAL_PATHS)
        for match in pattern.finditer(text)
    ]
    assert found == []


def test_files__none_is_large_outside_reference_data() -> None:
    large = [
        str(path.relative_to(ROOT))
        for path in FILES
        if path.stat().st_size > MAX_BYTES and not path.relative_to(ROOT).as_posix().startswith("tests/reference/")
    ]
    assert large == []


def test_code__says_participant() -> None:
    found = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [getattr(node, field, None) for field in ("id", "attr", "arg", "name")]
            found += [f"{path.relative_to(ROOT)}: {n}" for n in names if isinstance(n, str) and _says_it(n)]
    assert found == []


def _says_it(identifier: str) -> bool:
    return any(PARTICIPANT_WORD.fullmatch(word) for word in re.split(r"_|(?<=[a-z])(?=[A-Z])", identifier))


@pytest.mark.parametrize("identifier", ["sub" + "ject", "sub" + "ject_id", "nSub" + "jects", "SUB" + "JECTS"])
def test_says_it__finds_the_word(identifier: str) -> None:
    assert _says_it(identifier)


@pytest.mark.parametrize("identifier", ["participant_id", "subtract", "sub", "objects"])
def test_says_it__leaves_others_alone(identifier: str) -> None:
    assert not _says_it(identifier)


def test_changes__fragments_are_named_and_not_empty() -> None:
    fragments = [path for path in FILES if path.parent == ROOT / "changes" and path.name != "README.md"]
    assert fragments
    assert [p.name for p in fragments if not CHANGE_NAME.match(p.name) or len(p.read_text().strip()) < 20] == []


def test_decisions__have_the_four_sections() -> None:
    decisions = sorted(path for path in FILES if path.parent == ROOT / "docs" / "decisions" and path.suffix == ".md")
    assert decisions
    for path in decisions:
        assert re.match(r"^\d{4}-[a-z0-9-]+\.md$", path.name), path.name
        headings = [line.strip() for line in path.read_text().splitlines() if line.startswith("## ")]
        assert headings == list(DECISION_SECTIONS), path.name


@pytest.mark.parametrize("name", LOCKS)
def test_lock__every_package_is_pinned_by_hash_without_addresses(name: str) -> None:
    entries = _lock(name)
    assert len(entries) > 20
    assert [package for package, (_, hashes) in entries.items() if hashes == 0] == []
    assert "://" not in (ROOT / name).read_text()


@pytest.mark.parametrize("name", LOCKS)
def test_lock__satisfies_what_the_project_asks_for(name: str) -> None:
    extras: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
    wanted = PYPROJECT["project"]["dependencies"] + extras["build"]
    if name == "requirements-dev.lock":
        wanted = wanted + [line for lines in extras.values() for line in lines]
    entries = _lock(name)
    for line in wanted:
        requirement = Requirement(line)
        assert canonicalize_name(requirement.name) in entries, f"{line} is not in {name}: make lock"
        version, _ = entries[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{line}: {name} has {version}: make lock"


def test_lock__small_one_is_part_of_the_large_one() -> None:
    small, large = (_lock(name) for name in LOCKS)
    assert {p: v for p, (v, _) in small.items()} == {p: large[p][0] for p in small}


def test_dependencies__have_lower_bounds() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    lines = PYPROJECT["project"]["dependencies"] + [line for group in extras.values() for line in group]
    unbounded = [line for line in lines if not any(s.operator in (">=", "==") for s in Requirement(line).specifier)]
    assert unbounded == []


def _imported() -> set[str]:
    """Top-level names that the code imports, lazily too."""
    found = set()
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.split(".")[0])
    return found


def _module_names(lines: list[str]) -> set[str]:
    module_of = {"pillow": "PIL", "pyyaml": "yaml", "scikit-image": "skimage", "simpleitk": "SimpleITK"}
    names = {canonicalize_name(Requirement(line).name) for line in lines}
    return {module_of.get(name, name.replace("-", "_")) for name in names}


def test_dependencies__every_core_package_is_used() -> None:
    needed_by_others = {"cryptography"}  # distributed's Security.temporary
    assert _module_names(PYPROJECT["project"]["dependencies"]) - _imported() - needed_by_others == set()


def test_dependencies__every_import_is_declared() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    for_users = [line for name in ("service", "hpc", "s3", "dwi", "tfce") for line in extras[name]]
    declared = _module_names(PYPROJECT["project"]["dependencies"] + for_users)
    own = {"voxcloud", "flows", "infra"}
    assert _imported() - declared - own - set(sys.stdlib_module_names) == set()


def test_dockerfile__installs_from_the_lock_and_runs_without_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    install = (ROOT / "infra" / "container" / "install.sh").read_text()
    assert "infra/container/install.sh /opt/voxcloud requirements.lock --wheel" in text
    assert "--require-hashes" in install
    last_stage = text[text.rindex("\nFROM ") :]
    assert "\nUSER voxcloud\n" in last_stage
    assert "pip install" not in text
    assert 'ENTRYPOINT ["voxcloud"]' in last_stage
    assert "HEALTHCHECK" in last_stage


def test_dockerfile__copies_only_what_the_context_holds() -> None:
    allowed = {
        line[1:].strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = set()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= {name.removeprefix("./") for name in line.split()[1:-1]}
    assert copied == allowed
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)  # half a gigabyte to unpack and compile
def test_container__install_commands_work_and_the_wheel_is_complete(tmp_path: Path) -> None:
    """The commands of the Dockerfile, in a fresh virtual environment."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    script = ROOT / "infra" / "container" / "install.sh"
    subprocess.run([str(script), str(venv), str(ROOT / "requirements.lock"), "--wheel"], check=True)
    code = "import voxcloud, flows, infra; print(voxcloud.__file__)"
    shown = subprocess.run(
        [str(venv / "bin" / "python"), "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert str(venv) in shown.stdout
    help_text = subprocess.run([str(venv / "bin" / "voxcloud"), "--help"], check=True, capture_output=True, text=True)
    assert "simulate" in help_text.stdout
