"""One registration in a process of its own: ``python -m voxcloud.space.greedy_process FOLDER``.

greedy holds the interpreter lock, and a Dask worker may not start processes by multiprocessing: so each registration is
a plain child process with one thread. It reads ``request.json`` and arrays (``.npy``) from the folder, writes
``answer.json`` (and displacements, ``.npy``) there, and ends with its parent.
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
    end_with_parent()
    request: dict[str, Any] = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    images = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in request["images"]}
    if "start" in request:
        np.savetxt(folder / "start.txt", np.array(request["start"]), fmt="%.17g")
    if "deformable" in request:
        answer = _deform(request, images, folder)
    else:
        matrix, metric = _register(request, images, folder)
        answer = {"matrix": matrix.tolist(), "metric": metric}
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer |= {
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_bytes": peak_bytes(),
        "program": f"picsl-greedy {version('picsl-greedy')}",
    }
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def end_with_parent() -> None:
    """End when the parent does: at once on Linux, elsewhere when its end of the pipe closes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.read(0, 1):  # nothing is ever written: it returns when the other end closes
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def peak_bytes() -> int:
    """Return the largest memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would tell the parent's, if that is larger
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


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
    return np.asarray(greedy["found"], dtype=np.float64), _last_metrics(greedy)


def _deform(request: dict[str, Any], images: dict[str, npt.NDArray[Any]], folder: Path) -> dict[str, Any]:
    """Find a displacement field and its inverse, and save both (RAS+ mm, ``found`` and ``inverse``)."""
    from picsl_greedy import Greedy3D

    named = {name: _image(array, np.array(request["affines"][name])) for name, array in images.items()}
    mask = "-gm mask" if "mask" in named else ""
    start = f"-it {folder / 'start.txt'}" if "start" in request else ""
    pairs = " ".join(f"-w {weight} -i fixed{i} moving{i}" for i, weight in enumerate(request["weights"]))
    before, after = request["smoothing"]
    # A stationary velocity field has an inverse by itself; -wp 0: warps as they are found, not in tenths of voxels.
    command = (
        f"-threads 1 -seed 1 -V 0 -sv -m {request['metric']} -n {request['iterations']} -s {before} {after} "
        f"-e {request['step']} -wp 0 {start} {mask} {pairs} -o found -oinv inverse"
    )
    greedy = Greedy3D()
    greedy.execute(command, out=io.StringIO(), err=io.StringIO(), found=None, inverse=None, **named)
    for name in ("found", "inverse"):
        np.save(folder / f"{name}.npy", _displacement(greedy[name]), allow_pickle=False)
    return {"metric": _last_metrics(greedy), "warps": ["found", "inverse"]}


def _last_metrics(greedy: Any) -> list[float]:
    log = greedy.metric_log()
    return [float(np.asarray(level["TotalPerPixelMetric"]).reshape(-1)[-1]) for level in log] if log else []


def _displacement(image: Any) -> npt.NDArray[np.float32]:
    """Return an ITK vector image as (x, y, z, 3) in mm to the right, front and top."""
    import SimpleITK as sitk

    array = sitk.GetArrayViewFromImage(image)  # (z, y, x, 3)
    return np.ascontiguousarray(array.transpose(2, 1, 0, 3) * np.diag(RAS_TO_LPS), dtype=np.float32)


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
