"""Templates and regions."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from voxcloud.errors import CorruptStoreError, NewerSchemaError, StorageError
from voxcloud.storage.folder import FolderStore
from voxcloud.storage.regions import ArrayTemplate, check_region, create_template, open_array, write_region

EFFECT = ArrayTemplate("effect", ("test", "voxel"), (2, 500), (2, 120), "float64")
COUNT = ArrayTemplate("n", ("voxel",), (500,), (120,), "int32")


def test_create_template__opens_in_zarr_with_names_and_attributes(store: FolderStore) -> None:
    create_template(store, "fits/m", [EFFECT, COUNT], {"tests": [["linear", "a"]]})
    group = zarr.open_group(store.root / "fits/m", mode="r")
    assert group.attrs["tests"] == [["linear", "a"]]
    assert group.attrs["schema_version"] == 1
    assert group["effect"].metadata.dimension_names == ("test", "voxel")
    assert np.isnan(group["effect"][0, 0])
    assert group["n"][0] == 0


def test_create_template__the_same_again_changes_nothing(store: FolderStore) -> None:
    create_template(store, "fits/m", [EFFECT, COUNT], {"a": 1})
    write_region(store, "fits/m/effect", np.ones((2, 120)), (0, 120))
    before = {path: store.local_path(path).stat().st_ino for path in store.list("")}
    create_template(store, "fits/m", [EFFECT, COUNT], {"a": 1})
    assert {path: store.local_path(path).stat().st_ino for path in store.list("")} == before


@pytest.mark.parametrize(
    ("arrays", "attributes"),
    [
        ([EFFECT], {"a": 2}),
        ([ArrayTemplate("effect", ("test", "voxel"), (3, 500), (3, 120), "float64")], {"a": 1}),
        ([ArrayTemplate("effect", ("test", "voxel"), (2, 500), (2, 60), "float64")], {"a": 1}),
        ([EFFECT, COUNT], {"a": 1}),
    ],
)
def test_create_template__another_one_drops_the_old_chunks(
    store: FolderStore, arrays: list[ArrayTemplate], attributes: dict[str, int]
) -> None:
    create_template(store, "fits/m", [EFFECT], {"a": 1})
    write_region(store, "fits/m/effect", np.ones((2, 120)), (0, 0))
    create_template(store, "fits/m", arrays, attributes)
    assert not any("/c/" in path for path in store.list("fits/m"))
    assert open_array(store, "fits/m/effect").shape == arrays[0].shape


def test_create_template__one_that_was_cut_short_is_made_anew(store: FolderStore) -> None:
    create_template(store, "fits/m", [EFFECT, COUNT], {})
    store.delete("fits/m/n/zarr.json")
    store.local_path("fits/m/effect/zarr.json").write_bytes(b'{"zarr_for')
    create_template(store, "fits/m", [EFFECT, COUNT], {})
    assert open_array(store, "fits/m/n").shape == (500,)
    assert open_array(store, "fits/m/effect").shape == (2, 500)


@pytest.mark.parametrize("damage", [None, b"{", b"[]", b"\xff\x00"])
@pytest.mark.parametrize("document", ["zarr.json", "effect/zarr.json"])
def test_create_template__chunks_of_the_same_group_survive_damaged_metadata(
    store: FolderStore, document: str, damage: bytes | None
) -> None:
    create_template(store, "fits/m", [EFFECT, COUNT], {})
    write_region(store, "fits/m/effect", np.ones((2, 120)), (0, 0))
    before = {path: store.read_bytes(path) for path in store.list("fits")}
    if damage is None:
        store.delete(f"fits/m/{document}")
    else:
        store.local_path(f"fits/m/{document}").write_bytes(damage)
    create_template(store, "fits/m", [EFFECT, COUNT], {})
    assert {path: store.read_bytes(path) for path in store.list("fits")} == before


def test_create_template__arrays_of_a_group_that_was_being_deleted_go(store: FolderStore) -> None:
    create_template(store, "fits/m", [EFFECT, COUNT], {})
    write_region(store, "fits/m/n", np.ones(120, dtype=np.int32), (0,))
    store.delete("fits/m/zarr.json")
    create_template(store, "fits/m", [EFFECT], {"other": 1})
    assert not [path for path in store.list("fits") if "/n/" in path]


def test_create_template__never_deletes_what_a_newer_version_wrote(store: FolderStore) -> None:
    create_template(store, "fits/m", [EFFECT], {})
    path = store.local_path("fits/m/zarr.json")
    tree = json.loads(path.read_text())
    tree["attributes"]["schema_version"] = 99
    path.write_text(json.dumps(tree))
    with pytest.raises(NewerSchemaError, match=r"fits/m: expected schema version 1 or lower, found 99"):
        create_template(store, "fits/m", [EFFECT, COUNT], {})
    assert store.exists("fits/m/effect/zarr.json")


def test_create_template__refuses_dimensions_that_do_not_fit(store: FolderStore) -> None:
    with pytest.raises(StorageError, match="one chunk size per dimension"):
        create_template(store, "fits/m", [ArrayTemplate("x", ("voxel",), (2, 500), (2, 120), "float64")], {})


@pytest.mark.parametrize(
    ("offset", "block"),
    [
        ((0, 100), (2, 120)),
        ((0, 0), (2, 100)),
        ((0, 480), (2, 40)),
        ((0, -120), (2, 120)),
        ((1, 0), (1, 120)),
        ((0, 0), (2, 0)),
    ],
)
def test_check_region__refuses_parts_of_chunks(offset: tuple[int, ...], block: tuple[int, ...]) -> None:
    with pytest.raises(StorageError, match="whole chunks"):
        check_region((2, 500), (2, 120), offset, block)


@pytest.mark.parametrize(
    ("offset", "block"), [((0, 0), (2, 120)), ((0, 120), (2, 360)), ((0, 480), (2, 20)), ((0, 0), (2, 500))]
)
def test_check_region__takes_whole_chunks_and_the_last_short_one(
    offset: tuple[int, ...], block: tuple[int, ...]
) -> None:
    check_region((2, 500), (2, 120), offset, block)


def test_check_region__refuses_another_number_of_dimensions() -> None:
    with pytest.raises(StorageError, match="2 dimensions"):
        check_region((2, 500), (2, 120), (0,), (2, 120))


def test_write_region__many_writers_lose_nothing(store: FolderStore) -> None:
    create_template(store, "fits/m", [EFFECT], {})
    values = np.random.default_rng(0).normal(size=(2, 500))
    starts = list(range(0, 500, 120))
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda s: write_region(store, "fits/m/effect", values[:, s : s + 120], (0, s)), starts))
    np.testing.assert_array_equal(open_array(store, "fits/m/effect")[:], values)


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_write_region__stores_chunks_of_nothing_but_fill_values(store: FolderStore, value: float) -> None:
    create_template(store, "fits/m", [EFFECT, COUNT], {})
    write_region(store, "fits/m/effect", np.full((2, 240), value), (0, 0))
    write_region(store, "fits/m/n", np.zeros(120, dtype=np.int32), (0,))
    assert all(store.size(f"fits/m/{name}") > 0 for name in ("effect/c/0/0", "effect/c/0/1", "n/c/0"))


def test_write_region__the_same_block_gives_the_same_bytes(store: FolderStore) -> None:
    create_template(store, "fits/m", [EFFECT], {})
    block = np.random.default_rng(0).normal(size=(2, 120))
    write_region(store, "fits/m/effect", block, (0, 0))
    before = store.read_bytes("fits/m/effect/c/0/0")
    write_region(store, "fits/m/effect", block, (0, 0))
    assert store.read_bytes("fits/m/effect/c/0/0") == before


def test_write_region__refuses_values_that_would_lose_their_meaning(store: FolderStore) -> None:
    create_template(store, "fits/m", [COUNT], {})
    with pytest.raises(StorageError, match="expected values of type int32, found float64"):
        write_region(store, "fits/m/n", np.full(120, 0.5), (0,))


def test_write_region__a_template_that_is_gone_is_named(store: FolderStore) -> None:
    with pytest.raises(CorruptStoreError, match=r"fits/m/n/zarr\.json"):
        write_region(store, "fits/m/n", np.zeros(120, dtype=np.int32), (0,))


def test_open_array__a_missing_array_is_named(store: FolderStore) -> None:
    with pytest.raises(CorruptStoreError, match="fits/m/n: expected a Zarr array, found none"):
        open_array(store, "fits/m/n")


def test_zarr_group__opens_what_is_there_and_names_what_is_not(store: FolderStore) -> None:
    create_template(store, "fits/m", [COUNT], {})
    assert store.zarr_group("fits/m").attrs["schema_version"] == 1
    with pytest.raises(CorruptStoreError, match="fits/x: expected a Zarr group, found none"):
        store.zarr_group("fits/x")
