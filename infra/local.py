"""Dask engines: worker processes on this machine, and a scheduler that runs somewhere already."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from voxcloud.config.study import Compute
from voxcloud.errors import PlanError
from voxcloud.pipeline.engines import memory_per_worker, worker_count

ONLY_HERE = "127.0.0.1:0"
# A unit may use this part of a worker's limit; the rest is the interpreter's and Dask's.
USABLE_MEMORY = 0.8
# Dask's default waits 15 s before it replaces a worker whose job was cancelled.
DASK_CONFIG = {
    "distributed.deploy.lost-worker-timeout": "3s",
    # A unit that is lost with its worker is given back to the run, which tries it again, the last time alone.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    # A worker runs one unit; pausing it would only keep the next one waiting without a word.
    "distributed.worker.memory.pause": False,
    "distributed.comm.timeouts.connect": "30s",
}


class DaskEngine:
    """Submits units to a Dask client; ``resources={"memory": bytes}`` keeps a worker from taking too many at once."""

    usable_share = USABLE_MEMORY

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.workers = worker_count(compute)
        self.memory_per_worker = int(USABLE_MEMORY * memory_per_worker(compute, self.workers))
        self._client: Any = None

    def __enter__(self) -> DaskEngine:
        self._client = self._connect()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._client is not None:
            self._client.close()

    def _connect(self) -> Any:
        raise NotImplementedError(f"{type(self).__name__} says how it connects")

    def submit(self, function: Callable[..., Any], *args: Any, key: str, memory: int) -> Future[Any]:
        """Submit one unit; the future is an ordinary one that Dask's resolves."""
        future: Future[Any] = Future()
        dask_future = self._client.submit(
            function, *args, key=key, pure=False, retries=0, resources={"memory": max(1, memory)}
        )
        dask_future.add_done_callback(lambda done: _hand_over(done, future))
        return future


def _hand_over(done: Any, future: Future[Any]) -> None:
    """Resolve a unit's future in Dask's callback thread, whatever happens: one that is never resolved is waited for.

    A finished unit's answer, a few hundred bytes, lies at its worker; if that dies before the answer is fetched, Dask
    runs the unit again, and asking for the answer then raises what became of that.
    """
    try:
        future.set_result(done.result())
    except BaseException as error:
        future.set_exception(error)


class LocalEngine(DaskEngine):
    """A ``LocalCluster`` of single-threaded worker processes on this machine, over TLS with this run's certificates."""

    def _connect(self) -> Any:
        import dask
        from distributed import Client, LocalCluster, Security

        dask.config.set(DASK_CONFIG)
        # What a lost worker means for units the run says itself, by name.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        security = Security.temporary()
        self._cluster = LocalCluster(
            n_workers=self.workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=int(self.memory_per_worker / USABLE_MEMORY),
            resources={"memory": self.memory_per_worker},
            security=security,
            protocol="tls://",
            host="127.0.0.1",
            # Without an address Dask opens its pages to every machine, on a port that another run may have.
            dashboard_address=ONLY_HERE,
            worker_dashboard_address=ONLY_HERE,
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
            preload=["infra.worker_setup"],
        )
        return Client(self._cluster, security=security)

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if self._client is not None:
            self._cluster.close()


class AddressEngine(DaskEngine):
    """A Dask scheduler that is already running, e.g. on a job queue."""

    def __init__(self, compute: Compute) -> None:
        super().__init__(compute)
        if not compute.address:
            raise PlanError(
                "compute.engine address needs compute.address, the scheduler's address such as tls://host:8786."
            )
        if not compute.address.startswith("tls://"):
            raise PlanError(
                f"compute.address: expected an address that begins with tls://, found {compute.address}. Whoever "
                "reaches a scheduler without TLS can run code as you: start scheduler and workers with --tls-ca-file, "
                "--tls-cert and --tls-key, and name the same files in Dask's configuration (distributed.comm.tls)."
            )

    def _connect(self) -> Any:
        import dask
        from distributed import Client

        dask.config.set(DASK_CONFIG)
        client = Client(self.compute.address, timeout="30s")
        info = client.scheduler_info(n_workers=-1)["workers"]
        declared = [int(w.get("resources", {}).get("memory", 0)) for w in info.values()]
        if not declared or min(declared) == 0:
            raise PlanError(
                f"{self.compute.address}: expected workers that declare a memory resource, found {len(declared)} "
                f"workers, {sum(d == 0 for d in declared)} without. Start them with --resources memory=BYTES."
            )
        self.workers, self.memory_per_worker = len(declared), max(declared)
        return client
