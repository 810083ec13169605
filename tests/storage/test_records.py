"""Records."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest

from voxcloud.errors import NewerSchemaError
from voxcloud.storage import records
from voxcloud.storage.folder import FolderStore
from voxcloud.storage.records import (
    OutputRef,
    Record,
    begin_unit,
    list_records,
    outputs_match,
    read_record,
    record_path,
    write_record,
)

A, B = "a" * 64, "b" * 64


def _record(**changes: object) -> Record:
    record = Record(
        "fit-block", "m/R1map_label-GM/0001", A, "done", (), 1.0, 2.0, 1.0, 0.5, 1000, "host", {"numpy": "2"}, {"n": 3}
    )
    return dataclasses.replace(record, **changes)


def _path(record: Record) -> str:
    return record_path(record.step, record.unit, record.fingerprint[:16], record.state)


def _read(store: FolderStore, record: Record) -> Record | None:
    return read_record(store, record.step, record.unit, record.fingerprint[:16], record.state)


def test_write_record__what_was_written_is_read(store: FolderStore) -> None:
    record = _record(
        outputs=(OutputRef("x", 3, "d"),), state="failed", error={"message": "no"}, log_tail=("one", "two")
    )
    write_record(store, record)
    assert _read(store, record) == record
    assert store.list("") == [".voxcloud/records/fit-block/m/R1map_label-GM/0001/aaaaaaaaaaaaaaaa.failed.json"]


def test_write_record__keeps_the_last_lines_of_the_log(store: FolderStore) -> None:
    write_record(store, _record(log_tail=tuple(map(str, range(50)))))
    found = _read(store, _record())
    assert found is not None
    assert found.log_tail == tuple(map(str, range(30, 50)))


def test_write_record__refuses_another_state(store: FolderStore) -> None:
    with pytest.raises(ValueError, match="running"):
        write_record(store, _record(state="running"))


def test_begin_unit__deletes_every_record_of_the_unit_whatever_the_fingerprint(store: FolderStore) -> None:
    gone = [_record(), _record(fingerprint=B), _record(fingerprint=B, state="failed")]
    kept = [_record(unit="m/R1map_label-GM/0001/x"), _record(unit="m/R1map_label-GM/00011"), _record(step="fit-blocks")]
    for record in gone + kept:
        write_record(store, record)
    begin_unit(store, _record().step, _record().unit)
    assert [_read(store, r) for r in gone] == [None] * 3
    assert [_read(store, r) for r in kept] == kept


def test_begin_unit__a_unit_killed_after_its_first_byte_is_not_done(store: FolderStore) -> None:
    store.write_bytes("out", b"A's bytes")
    write_record(store, _record(outputs=(OutputRef("out", 9, store.digest("out")),)))
    begin_unit(store, _record().step, _record().unit)  # now with settings B ...
    store.write_bytes("out", b"B's bytes")  # ... and killed here; settings go back to A
    assert list_records(store) == {}


def test_list_records__gives_units_to_states_without_opening_one(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for record in (_record(), _record(fingerprint=B, state="failed"), _record(step="stack", unit="x")):
        write_record(store, record)
    store.write_bytes(".voxcloud/records/readme.txt", b"not a record")
    store.write_bytes(".voxcloud/records/stack/x/notes.json", b"not a record")
    monkeypatch.setattr(FolderStore, "read_bytes", None)
    assert list_records(store) == {
        ("fit-block", "m/R1map_label-GM/0001"): [(A[:16], "done"), (B[:16], "failed")],
        ("stack", "x"): [(A[:16], "done")],
    }


def test_list_records__is_one_listing(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(FolderStore, "list", lambda _, prefix: calls.append(prefix) or [])
    assert list_records(store) == {}
    assert calls == [".voxcloud/records"]


def test_read_record__absent_is_none_and_no_news(store: FolderStore, caplog: pytest.LogCaptureFixture) -> None:
    assert _read(store, _record()) is None
    assert caplog.text == ""


@pytest.mark.parametrize("damage", ["half", "empty", "list", "no outputs", "another unit", "unknown field"])
def test_read_record__damaged_counts_as_absent_and_is_reported(
    store: FolderStore, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    write_record(store, _record())
    data = store.read_bytes(_path(_record()))
    tree = json.loads(data)
    damaged = {
        "half": data[: len(data) // 2],
        "empty": b"",
        "list": b"[]",
        "no outputs": json.dumps({k: v for k, v in tree.items() if k != "outputs"}).encode(),
        "another unit": json.dumps({**tree, "unit": "other"}).encode(),
        "unknown field": json.dumps({**tree, "surprise": 1}).encode(),
    }[damage]
    store.write_bytes(_path(_record()), damaged)
    with caplog.at_level(logging.WARNING):
        assert _read(store, _record()) is None
    assert f"{_path(_record())}: not a whole record" in caplog.text


def test_read_record__of_a_newer_version_is_refused(store: FolderStore) -> None:
    write_record(store, _record())
    tree = json.loads(store.read_bytes(_path(_record()))) | {"schema": 99, "new": 1}
    store.write_bytes(_path(_record()), json.dumps(tree).encode())
    with pytest.raises(NewerSchemaError, match="found 99"):
        _read(store, _record())


def test_read_record__of_an_older_version_is_upgraded_in_memory_only(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_record(store, _record())
    tree = json.loads(store.read_bytes(_path(_record())))
    tree["schema"] = 0
    tree["seconds"] = tree.pop("wall_s")
    old = json.dumps(tree).encode()
    store.write_bytes(_path(_record()), old)
    monkeypatch.setitem(
        records.UPGRADES, 0, lambda t: {k: v for k, v in t.items() if k != "seconds"} | {"wall_s": t["seconds"]}
    )
    with caplog.at_level(logging.INFO):
        assert _read(store, _record()) == _record()
    assert "read from record schema 0" in caplog.text
    assert store.read_bytes(_path(_record())) == old


def test_outputs_match__says_what_differs(store: FolderStore) -> None:
    store.write_bytes("out/a", b"aaa")
    store.write_bytes("out/b", b"bbb")
    refs = tuple(OutputRef(p, store.size(p), store.digest(p)) for p in ("out/a", "out/b"))
    record = _record(outputs=refs)
    assert outputs_match(store, record) == ""
    store.write_bytes("out/a", b"aaa")
    assert outputs_match(store, record) == ""
    store.write_bytes("out/b", b"bbc")
    assert outputs_match(store, record) == "out/b has other bytes than were written"
    store.write_bytes("out/b", b"bb")
    assert outputs_match(store, record) == "out/b has 2 bytes, 3 were written"
    store.delete("out/b")
    assert outputs_match(store, record) == "out/b is gone"
