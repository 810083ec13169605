"""One run per study."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from voxcloud.errors import LeaseHeldError, LeaseLostError, StorageError
from voxcloud.storage import lease as module
from voxcloud.storage.folder import FolderStore
from voxcloud.storage.lease import LEASE_PATH, acquire, read_lease

REPOSITORY = Path(__file__).resolve().parents[2]

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are recognised through /proc")

HOLDER = """
import sys
from voxcloud.errors import LeaseLostError
from voxcloud.storage.lease import acquire
from voxcloud.storage.store import open_store
lease = acquire(open_store(sys.argv[1]), sys.argv[2])
print("held", flush=True)
for line in sys.stdin:
    try:
        lease.check()
        print("still mine", flush=True)
    except LeaseLostError as error:
        print("lost:", error, flush=True)
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(store: FolderStore) -> Iterator[Start]:
    """Start another process that takes the lease and checks it whenever it is asked."""
    processes = []

    def run(run_id: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, store.url, run_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def _ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("check\n")
    process.stdin.flush()
    return process.stdout.readline()


def _age(store: FolderStore, seconds: float) -> None:
    """Make the lease older by the store's clock."""
    path = store.local_path(LEASE_PATH)
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def _abandon(store: FolderStore, run_id: str = "dead", **changes: object) -> None:
    """Leave the lease of a run on another machine."""
    tree = {"schema": 1, "run_id": run_id, "token": run_id, "host": "elsewhere", "pid": 1, "boot": "b", "started": 0.0}
    store.write_bytes(LEASE_PATH, json.dumps({**tree, "running": [], **changes}).encode())


def test_acquire__says_who_runs_and_what(store: FolderStore) -> None:
    with acquire(store, "one") as lease:
        lease.set_running(["fit-block/a", "fit-block/b"])
        found = read_lease(store)
        assert found is not None
        assert (found.run_id, found.pid, found.running) == ("one", os.getpid(), ("fit-block/a", "fit-block/b"))
        assert found.alive
        assert found.age_s < 5
        lease.check()
    assert read_lease(store) is None


def test_acquire__the_second_run_is_told_who_holds_it(store: FolderStore) -> None:
    with acquire(store, "one") as lease:
        with pytest.raises(
            LeaseHeldError, match=r"found run one on .* \(process \d+\), last seen \d+ s ago. Wait for it"
        ):
            acquire(store, "two")
        lease.check()
    with acquire(store, "two"):
        pass


def test_acquire__a_lease_on_another_machine_is_dead_after_90_s_of_the_stores_clock(store: FolderStore) -> None:
    _abandon(store)
    _age(store, 80)
    with pytest.raises(LeaseHeldError):
        acquire(store, "two")
    _age(store, 15)
    with acquire(store, "two") as lease:
        lease.check()


@pytest.mark.parametrize("offset", [-1e6, 1e6])
def test_acquire__no_wall_clock_of_this_machine_takes_part(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    real = time.time
    monkeypatch.setattr(module.time, "time", lambda: real() + offset)
    _abandon(store)
    with pytest.raises(LeaseHeldError):
        acquire(store, "two")
    _age(store, 95)
    with acquire(store, "two"):
        found = read_lease(store)
        assert found is not None
        assert found.alive


@pytest.mark.parametrize("times", range(5))
def test_acquire__of_many_that_find_a_dead_lease_exactly_one_wins(store: FolderStore, times: int) -> None:
    _abandon(store, f"dead-{times}")
    _age(store, 95)
    barrier = threading.Barrier(6)
    won, lost = [], []

    def contend(number: int) -> None:
        barrier.wait()
        try:
            won.append(acquire(store, f"run-{number}"))
        except LeaseHeldError:
            lost.append(number)

    threads = [threading.Thread(target=contend, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert (len(won), len(lost)) == (1, 5)
        won[0].check()
    finally:
        for lease in won:
            lease.release()


def test_acquire__a_damaged_lease_counts_until_it_is_old(store: FolderStore) -> None:
    store.write_bytes(LEASE_PATH, b'{"run_id": "x", "ho')
    with pytest.raises(LeaseHeldError, match="unreadable"):
        acquire(store, "two")
    _age(store, 95)
    with acquire(store, "two") as lease:
        lease.check()


def test_acquire__a_takeover_removes_unfinished_files(store: FolderStore) -> None:
    store.write_bytes("stacks/x", b"1")
    half = store.root / "stacks" / ".tmp-half"
    half.write_bytes(b"half")
    _abandon(store)
    _age(store, 95)
    with acquire(store, "two"):
        assert not half.exists()


@needs_proc
def test_acquire__a_killed_process_of_this_machine_is_dead_at_once(store: FolderStore, start: Start) -> None:
    process = start("one")
    with pytest.raises(LeaseHeldError, match="run one"):
        acquire(store, "two")
    process.kill()  # not waited for: a zombie is as dead
    deadline = time.monotonic() + 10
    found = read_lease(store)
    while found is not None and found.alive and time.monotonic() < deadline:
        time.sleep(0.02)
        found = read_lease(store)
    with acquire(store, "two") as lease:
        lease.check()


@needs_proc
def test_acquire__another_process_with_the_number_of_a_dead_one_does_not_count(store: FolderStore) -> None:
    _abandon(store, host=socket.gethostname(), boot=module.boot_id(), pid=os.getpid(), process_start="1")
    with acquire(store, "two"):
        pass


@pytest.mark.parametrize("changes", [{"boot": "before the restart"}, {"host": "elsewhere"}, {"boot": ""}])
def test_acquire__a_process_that_cannot_be_seen_from_here_is_waited_for(
    store: FolderStore, changes: dict[str, str]
) -> None:
    here = {"host": socket.gethostname(), "boot": module.boot_id(), "pid": 2**22 + 1, "process_start": "1"}
    _abandon(store, **{**here, **changes})
    with pytest.raises(LeaseHeldError):
        acquire(store, "two")


@needs_proc
def test_check__a_stopped_run_that_goes_on_finds_that_it_lost(store: FolderStore, start: Start) -> None:
    process = start("one")
    assert _ask(process) == "still mine\n"
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(LeaseHeldError):
        acquire(store, "two")
    _age(store, 95)
    with acquire(store, "two") as lease:
        os.kill(process.pid, signal.SIGCONT)
        answer = _ask(process)
        assert answer.startswith("lost:")
        assert "run one expected to hold this study's lease, found that run two does" in answer
        lease.check()
        found = read_lease(store)
        assert found is not None
        assert found.run_id == "two"
    # Once lost it stays lost, also when the study is free again.
    assert "nobody" in _ask(process)


def test_check__a_lease_that_somebody_deleted_is_lost(store: FolderStore) -> None:
    with acquire(store, "one") as lease:
        store.delete(LEASE_PATH)
        with pytest.raises(LeaseLostError, match="nobody"):
            lease.check()
        lease.set_running(["a"])
        assert not store.exists(LEASE_PATH)


def test_check__the_same_run_id_is_not_the_same_run(store: FolderStore) -> None:
    with acquire(store, "one") as first:
        _age(store, 95)
        with acquire(store, "one") as second:
            with pytest.raises(LeaseLostError):
                first.check()
            second.check()


def test_release__only_ones_own(store: FolderStore) -> None:
    first = acquire(store, "one")
    _age(store, 95)
    with acquire(store, "two") as second:
        first.release()
        second.check()
    first.release()
    assert read_lease(store) is None


def test_release__ends_the_refreshing_and_the_lease(store: FolderStore) -> None:
    lease = acquire(store, "one")
    lease.release()
    lease.set_running(["a"])
    assert not store.exists(LEASE_PATH)
    with pytest.raises(LeaseLostError):
        lease.check()
    lease._thread.join(5)
    assert not lease._thread.is_alive()


def test_lease__is_refreshed_while_the_run_works(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH_S", 0.05)
    with acquire(store, "one"):
        _age(store, 80)
        deadline = time.monotonic() + 10
        age = 80.0
        while age > 40 and time.monotonic() < deadline:
            time.sleep(0.02)
            found = read_lease(store)
            assert found is not None
            age = found.age_s
        assert age < 40


def test_lease__a_refresh_that_fails_is_tried_again(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "REFRESH_S", 0.02)
    replace_if = FolderStore.replace_if
    attempts: list[int] = []

    def flaky(self: FolderStore, path: str, expected: bytes, data: bytes | None) -> bool:
        attempts.append(1)
        if len(attempts) % 3 and data is not None:
            raise StorageError("the disk hiccups")
        return replace_if(self, path, expected, data)

    monkeypatch.setattr(FolderStore, "replace_if", flaky)
    with acquire(store, "one") as lease:
        lease.set_running(["a"])
        deadline = time.monotonic() + 10
        while len(attempts) < 7 and time.monotonic() < deadline:
            time.sleep(0.01)
        lease.check()
        found = read_lease(store)
        assert found is not None
        assert found.running == ("a",)
    assert "could not refresh its lease: the disk hiccups" in caplog.text
