"""Programs that find deformations, behind one interface: greedy comes along, antspyx and dipy if they are installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from voxcloud.errors import RegistrationError
from voxcloud.space.deformable import ITERATIONS, METRIC, register_deformable
from voxcloud.space.greedy import run_child

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Engine = Literal["greedy", "antspyx", "dipy"]

MODULES = {"greedy": "picsl_greedy", "antspyx": "ants", "dipy": "dipy"}
INSTALL = {
    "greedy": "pip install picsl-greedy",
    "antspyx": "pip install antspyx",
    "dipy": "pip install 'voxcloud[dwi]'",
}
# Between two heads, smoother updates than within one: they are fitted to less chance (0010-normalisation.md).
SMOOTHING_VOX = (2.5, 0.7071)


@dataclass(frozen=True)
class Schedule:
    """How greedy searches; see ``register_deformable``. The other engines have schedules of their own.

    Attributes
    ----------
    metric, iterations, smoothing
        As of ``register_deformable``; ``smoothing`` in voxels.
    """

    metric: str = METRIC
    iterations: str = ITERATIONS
    smoothing: tuple[float, float] = SMOOTHING_VOX


@dataclass(frozen=True, eq=False)
class Warp:
    """A displacement between images on one grid.

    Attributes
    ----------
    displacement
        (x, y, z, 3): a point ``x`` of the fixed image lies at ``x + u(x)`` in the moving one; mm, RAS+.
    inverse
        (x, y, z, 3): a point ``y`` of the moving image lies at ``y + v(y)`` in the fixed one.
    cpu_s, peak_bytes
        CPU seconds and largest memory of the child process.
    program
        Name and version.
    """

    displacement: Float32
    inverse: Float32
    cpu_s: float
    peak_bytes: int
    program: str


def check_engine(engine: str) -> None:
    """Say what is missing for an engine.

    Raises
    ------
    RegistrationError
        If the engine is none, or not installed.
    """
    if engine not in get_args(Engine):
        raise RegistrationError(
            f"normalisation: expected the engine {', '.join(get_args(Engine)[:-1])} or {get_args(Engine)[-1]}, found "
            f"{engine!r}. Choose one of these."
        )
    if find_spec(MODULES[engine]) is None:
        raise RegistrationError(
            f"normalisation: expected the engine {engine} to be installed, found no package {MODULES[engine]}. Install "
            f"it ({INSTALL[engine]}), or choose the engine greedy."
        )


def find_warp(
    engine: Engine,
    fixed: Sequence[npt.NDArray[Any]],
    moving: Sequence[npt.NDArray[Any]],
    affine: Float64,
    mask: npt.NDArray[np.bool_],
    schedule: Schedule,
) -> Warp:
    """Find the displacement between images on one grid, channel by channel, in a process of its own with one thread.

    dipy compares the first channel only.

    Raises
    ------
    RegistrationError
        If the engine is not installed or failed.
    """
    check_engine(engine)
    if engine == "greedy":
        found = register_deformable(
            fixed,
            affine,
            moving,
            affine,
            fixed_mask=mask,
            metric=schedule.metric,
            iterations=schedule.iterations,
            smoothing=schedule.smoothing,
        )
        return Warp(found.displacement, found.inverse, found.cpu_s, found.peak_bytes, found.program)
    images = {f"fixed{i}": a for i, a in enumerate(fixed)} | {f"moving{i}": a for i, a in enumerate(moving)}
    images["mask"] = mask.astype(np.float32)
    request = {"engine": engine, "images": list(images), "affine": affine.tolist()}
    answer, warps = run_child("voxcloud.space.warp_process", engine, request, images)
    return Warp(
        warps["found"], warps["inverse"], float(answer["cpu_s"]), int(answer["peak_bytes"]), str(answer["program"])
    )
