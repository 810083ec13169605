"""Worker processes on this machine: one that dies loses its unit only, and nobody else can reach them."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import KilledWorker, LocalCluster, Security
from distributed.client import FutureCancelledError

from infra.local import USABLE_MEMORY, AddressEngine, LocalEngine, _hand_over
from voxcloud.config.study import Compute
from voxcloud.errors import PlanError
from voxcloud.pipeline.run import run_units
from voxcloud.plan.unit import WorkUnit


class NoLease:
    """A lease that is never lost."""

    run_id = "test"

    def check(self) -> None:
        """Hold it."""

    def set_running(self, units: Any) -> None:
        """Tell nobody."""


def listening_elsewhere(pid: int) -> list[str]:
    """Return the addresses at which a process listens for other machines (Linux)."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    found = []
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in sockets and not fields[1].startswith("0100007F:"):
            found.append(fields[1])
    return found


@pytest.mark.slow
def test_local_engine__a_killed_worker_loses_the_unit_in_flight_only(tmp_path: Path) -> None:
    units = [WorkUnit("fit-block", f"unit-{n}", {}, {}, (), projected_mem=1) for n in range(6)]
    log = tmp_path / "log"

    def execute(folder: str, key: str, run_id: str) -> dict[str, Any]:
        with (Path(folder) / "log").open("a") as stream:
            stream.write(f"{key} {os.getpid()}\n")
        if key.endswith("unit-2") and Path(folder, "log").read_text().count(key) == 1:
            time.sleep(1.0)  # the answers of units that ended before are fetched by then
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return {"state": "done", "seconds": 0.05, "cpu_s": 0.0}

    here = str(tmp_path)
    with LocalEngine(Compute(engine="local", workers=2, memory_per_worker="1 GB")) as engine:
        assert engine.memory_per_worker == int(USABLE_MEMORY * 10**9)
        outcome = run_units(units, here, engine, lease=NoLease(), execute=execute)
        workers = {int(line.split()[1]) for line in log.read_text().splitlines()}
        alive = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        assert [listening_elsewhere(pid) for pid in (os.getpid(), *alive)] == [[]] * (1 + len(alive))
    assert outcome.failed == {}
    assert sorted(outcome.computed) == sorted(unit.key for unit in units)
    started = Counter(line.split()[0] for line in log.read_text().splitlines())
    again = {key for key, number in started.items() if number > 1}
    assert again == {"fit-block/unit-2"}
    assert max(started.values()) == 2
    assert os.getpid() not in workers


@pytest.mark.parametrize("error", [KilledWorker("unit", None, 0), FutureCancelledError("unit", "lost")])
def test_hand_over__an_answer_that_is_lost_with_its_worker_ends_the_wait(error: Exception) -> None:
    class Lost:
        """A Dask future that counts as finished, whose answer can no longer be fetched."""

        status = "finished"

        def result(self) -> Any:
            raise error

    future: Future[Any] = Future()
    _hand_over(Lost(), future)
    assert future.exception(timeout=1) is error


@pytest.mark.slow
def test_local_engine__a_unit_that_always_ends_its_worker_fails_by_name(tmp_path: Path) -> None:
    units = [WorkUnit("fit-block", name, {}, {}, (), projected_mem=1) for name in ("bad", "good", "fine")]

    def execute(folder: str, key: str, run_id: str) -> dict[str, Any]:
        with (Path(folder) / "log").open("a") as stream:
            stream.write(f"{key}\n")
        if key.endswith("bad"):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"state": "done", "seconds": 0.0, "cpu_s": 0.0}

    with LocalEngine(Compute(engine="local", workers=1, memory_per_worker="1 GB")) as engine:
        outcome = run_units(units, str(tmp_path), engine, lease=NoLease(), execute=execute)
    assert sorted(outcome.computed) == ["fit-block/fine", "fit-block/good"]
    assert list(outcome.failed) == ["fit-block/bad"]
    assert (tmp_path / "log").read_text().count("bad") == 3
    assert "the worker was lost" in outcome.failed["fit-block/bad"]["message"]


def test_address_engine__without_an_address_is_refused() -> None:
    with pytest.raises(PlanError, match=r"needs compute\.address"):
        AddressEngine(Compute(engine="address"))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "127.0.0.1:8786"])
def test_address_engine__refuses_a_scheduler_without_tls(address: str) -> None:
    with pytest.raises(PlanError, match="can run code as you"):
        AddressEngine(Compute(engine="address", address=address))


@pytest.mark.slow
def test_address_engine__runs_on_a_scheduler_over_tls(tmp_path: Path) -> None:
    """The certificates are in Dask's configuration, as on a cluster."""
    security = Security.temporary()
    files = {}
    for name, text in security.get_tls_config_for_role("client").items():
        if name in ("ca_file", "cert", "key"):
            files[name] = tmp_path / name
            files[name].write_text(text)
    tls = {"distributed.comm.tls.ca-file": str(files["ca_file"])}
    for role in ("client", "scheduler", "worker"):
        tls |= {f"distributed.comm.tls.{role}.{part}": str(files[part]) for part in ("cert", "key")}
    with (
        dask.config.set(tls),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            security=Security(),
            protocol="tls://",
            host="127.0.0.1",
            dashboard_address=None,
            resources={"memory": 1_000_000_000},
        ) as cluster,
        AddressEngine(Compute(engine="address", address=cluster.scheduler_address)) as engine,
    ):
        assert engine.memory_per_worker == 1_000_000_000
        assert engine.submit(pow, 2, 5, key="a#1", memory=10).result(timeout=60) == 32
