"""A deformation by antspyx or dipy in a process of its own: ``python -m voxcloud.space.warp_process FOLDER``.

See ``greedy_process``. Both images lie on one grid already, so that there is a displacement to find and nothing else.
"""

from __future__ import annotations

import json
import resource
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.space.greedy_process import RAS_TO_LPS, end_with_parent, peak_bytes

Float64 = npt.NDArray[np.float64]
Images = dict[str, npt.NDArray[Any]]

# Local correlation in both, over 5 voxels each way in antspyx (its radius 2) and dipy (2), as greedy's ``NCC 2x2x2``.
RADIUS = 2
ANTS_ITERATIONS = (100, 50, 10)
DIPY_ITERATIONS = (20, 20, 5)


def main(folder: Path) -> None:
    """Carry the request out."""
    end_with_parent()
    request: dict[str, Any] = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    images = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in request["images"]}
    affine = np.array(request["affine"])
    run = {"antspyx": _antspyx, "dipy": _dipy}[request["engine"]]
    for name, field in zip(("found", "inverse"), run(images, affine, folder), strict=True):
        np.save(folder / f"{name}.npy", np.ascontiguousarray(field, dtype=np.float32), allow_pickle=False)
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer = {
        "warps": ["found", "inverse"],
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_bytes": peak_bytes(),
        "program": f"{request['engine']} {version(request['engine'])}",
    }
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _pairs(images: Images) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    return [(images[f"fixed{i}"], images[f"moving{i}"]) for i in range(sum(n.startswith("fixed") for n in images))]


def _antspyx(images: Images, affine: Float64, folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    ants: Any = import_module("ants")
    size = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    place = {
        "origin": (RAS_TO_LPS @ affine[:3, 3]).tolist(),
        "spacing": size.tolist(),
        "direction": RAS_TO_LPS @ (affine[:3, :3] / size),
    }
    pairs = [tuple(ants.from_numpy(a.astype(np.float32), **place) for a in pair) for pair in _pairs(images)]
    found = ants.registration(
        *pairs[0],
        type_of_transform="SyNOnly",
        initial_transform="Identity",
        outprefix=str(folder / "ants"),
        mask=ants.from_numpy(images["mask"].astype(np.float32), **place),
        mask_all_stages=True,
        syn_metric="CC",
        syn_sampling=RADIUS,
        reg_iterations=ANTS_ITERATIONS,
        multivariate_extras=[["CC", *pair, 1.0, RADIUS] for pair in pairs[1:]] or None,
        random_seed=1,
    )
    there, back = (
        next(name for name in found[key] if name.endswith("Warp.nii.gz")) for key in ("fwdtransforms", "invtransforms")
    )
    fields = [ants.image_read(str(name)).numpy() * np.diag(RAS_TO_LPS) for name in (there, back)]
    return fields[0], fields[1]


def _dipy(images: Images, affine: Float64, folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    fixed, moving = _pairs(images)[0]
    share = images["mask"].astype(np.float64)
    engine = SymmetricDiffeomorphicRegistration(CCMetric(3, radius=RADIUS), level_iters=list(DIPY_ITERATIONS))
    engine.verbosity = 0
    found = engine.optimize(
        fixed * share, moving * share, static_grid2world=affine, moving_grid2world=affine, prealign=None
    )
    return found.get_forward_field(), found.get_backward_field()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
