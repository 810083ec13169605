"""Which stores may be opened, and which paths they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxcloud.errors import StorageError
from voxcloud.storage.store import check_path, open_store


def test_open_store__takes_folders_and_file_urls(tmp_path: Path) -> None:
    assert open_store(tmp_path).url == open_store(f"file://{tmp_path}").url == str(tmp_path.resolve())


def test_open_store__url_opens_the_same_store_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "a folder")
    assert open_store(store.url) == store


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://bucket/study", "object storage comes with the service release"),
        ("simplecache::s3://bucket/study", "chained"),
        ("file:///tmp::http://169.254.169.254/latest", "chained"),
        ("http://169.254.169.254/latest/meta-data", "another kind"),
        ("gs://bucket/study", "another kind"),
        ("memory://x", "another kind"),
        ("ssh://host/x", "another kind"),
        ("", "another kind"),
    ],
)
def test_open_store__refuses_what_is_no_folder(url: str, says: str) -> None:
    with pytest.raises(StorageError, match=says):
        open_store(url)


def test_open_store__stays_within_allowed_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data", tmp_path / "other"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    assert open_store(inside / "study", [inside]).url == str((inside / "study").resolve())
    for url in (outside, inside / ".." / "other", inside / "link" / "study", tmp_path / "data-2"):
        with pytest.raises(StorageError, match="may be opened"):
            open_store(url, [inside])


def test_open_store__no_allowed_root_opens_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="none"):
        open_store(tmp_path, [])


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "a/..", "a\0b", "a\\..\\b", ".tmp-x", "a/.tmp-x/b"]
)
def test_check_path__refuses_what_leaves_the_store_or_is_its_own(path: str) -> None:
    with pytest.raises(StorageError):
        check_path(path)


@pytest.mark.parametrize("path", ["", "a", "a/b.json", ".voxcloud/records/a..b/c", "a/./b"])
def test_check_path__takes_relative_paths(path: str) -> None:
    check_path(path)
