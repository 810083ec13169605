"""One registration in a process of its own: ``python -m voxcloud.space.greedy_process FOLDER``.

greedy holds the interpreter lock, and a Dask worker may not start processes by multiprocessing: so each registration is
a plain child process with one thread. It reads ``request.json`` and arrays (``.npy``) from the folder, writes
``answer.json`` there, and ends with its parent.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import signal
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# BIDS and nibabel count mm to the right, front and top; ITK to the left, back and top.
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
PR_SET_PDEATHSIG = 1


def main(folder: Path) -> None:
    """Carry the request out."""
    _end_with_parent()
    request: dict[str, Any] = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    images = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in request["images"]}
    if "start" in request:
        np.savetxt(folder / "start.txt", np.array(request["start"]), fmt="%.17g")
    matrix, metric = _register(request, images, folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer = {
        "matrix": matrix.tolist(),
        "metric": metric,
        "cpu_s": used.ru_utime + used.ru_stime,
        "program": f"picsl-greedy {version('picsl-greedy')}",
    }
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _end_with_parent() -> None:
    """End when the parent does: at once on Linux, elsewhere when its end of the pipe closes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.read(0, 1):  # nothing is ever written: it returns when the other end closes
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _register(
    request: dict[str, Any], images: dict[str, npt.NDArray[Any]], folder: Path
) -> tuple[npt.NDArray[np.float64], list[float]]:
    from picsl_greedy import Greedy3D

    named = {name: _image(array, np.array(request["affines"][name])) for name, array in images.items()}
    mask = "-gm mask" if "mask" in named else ""
    start = f"-ia {folder / 'start.txt'}" if "start" in request else "-ia-identity"
    # A seed makes it repeatable; jitter moves the samples off the voxel grid, where interpolation is best by itself.
    command = (
        f"-threads 1 -seed 1 -V 0 -a -dof {request['dof']} -m {request['metric']} -n {request['iterations']} "
        f"-jitter {request['jitter']} {start} {mask} -i fixed moving -o found"
    )
    greedy = Greedy3D()
    greedy.execute(command, out=io.StringIO(), err=io.StringIO(), found=None, **named)
    log = greedy.metric_log()
    last = [float(np.asarray(level["TotalPerPixelMetric"]).reshape(-1)[-1]) for level in log] if log else []
    return np.asarray(greedy["found"], dtype=np.float64), last


def _image(array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> Any:
    """Return an array (x, y, z) as an ITK image in its place."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T, dtype=np.float32))
    size = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    image.SetSpacing(size.tolist())
    image.SetDirection((RAS_TO_LPS @ (affine[:3, :3] / size)).reshape(-1).tolist())
    image.SetOrigin((RAS_TO_LPS @ affine[:3, 3]).tolist())
    return image


if __name__ == "__main__":
    main(Path(sys.argv[1]))
