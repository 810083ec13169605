"""ESTATICS: one R2* for all contrasts, and the signal of each at TE = 0, by log-linear least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxcloud.qmri.arrays import Floats, check_shapes, flatten, result_dtype
from voxcloud.qmri.log_linear import EchoPlan, fit_block
from voxcloud.qmri.protocol import ProtocolError, check_echo_times

# Voxels at a time: what the fit hands on is a quarter of a megabyte. Smaller blocks were measured to be slower, larger
# ones no faster.
BLOCK_VOXELS = 4096
SIGNAL_FLOOR = 1.0


@dataclass(frozen=True)
class EstaticsFit:
    """R2* and TE = 0 signals.

    Attributes
    ----------
    r2star : shape of an echo, in 1/s.
    r2star_error : standard error of R2* in 1/s, from ``residual`` by propagation of errors; 0 for a perfect fit.
    intercept : contrast -> signal extrapolated to TE = 0, in units of the images.
    residual : contrast -> root mean square over its echoes of (signal - fitted signal), in units of the images.
    """

    r2star: Floats
    r2star_error: Floats
    intercept: Mapping[str, Floats]
    residual: Mapping[str, Floats]


def fit_estatics(
    echoes: Mapping[str, Sequence[npt.ArrayLike]],
    echo_time_s: Mapping[str, Sequence[float]],
    *,
    weighted_passes: int = 1,
    signal_floor: float = SIGNAL_FLOOR,
    block_voxels: int = BLOCK_VOXELS,
) -> EstaticsFit:
    """Fit one R2* to all contrasts and extrapolate each to TE = 0.

    ``ln S_c(TE) = ln S0_c - TE R2*``, one R2*, one intercept per contrast c. Signals are raised to the floor first.
    Ordinary least squares, then ``weighted_passes`` times least squares with weights ``exp(2 fitted)``: the noise of
    the logarithm grows as the signal falls. One pass is enough.

    With one common slope the normal equations separate: ``R2* = -sum_c Syt_c / sum_c Stt_c`` with the weighted,
    centred sums of each contrast.

    Parameters
    ----------
    echoes : contrast -> one magnitude image per echo, all of one shape, arbitrary units. One contrast will do.
    echo_time_s : contrast -> echo time of each image in s, in any order; trains may differ.
    weighted_passes : 0 is ordinary least squares (OLS), n is WLSn.
    signal_floor : signals below it (and zeros) are raised to it before the logarithm, in units of the images.
    block_voxels : voxels at a time, which bounds the memory; results do not depend on it.

    Returns
    -------
    float32 maps if all images are float32 or 16-bit integers, else float64. Computed in float64. A voxel with NaN in
    any echo is NaN, others are untouched.

    Raises
    ------
    ProtocolError
        If the contrasts differ from those of the echo times, or a contrast has fewer than two echoes or echo times that
        cannot be in s.
    ImageError
        If the images differ in shape.

    Warns
    -----
    UserWarning
        If a contrast has fewer than six echoes.

    References
    ----------
    1. Weiskopf et al. (2014), ESTATICS, doi:10.3389/fnins.2014.00278.
    2. Tabelow et al. (2019), hMRI, doi:10.1016/j.neuroimage.2019.01.029.
    """
    if set(echoes) != set(echo_time_s) or not echoes:
        raise ProtocolError(
            f"ESTATICS: expected echo times for the contrasts {', '.join(echoes) or '(none)'}, found some for "
            f"{', '.join(echo_time_s) or '(none)'}. Name the same contrasts in both."
        )
    if weighted_passes < 0 or signal_floor <= 0 or block_voxels < 1:
        raise ProtocolError(
            f"ESTATICS: expected weighted_passes >= 0, signal_floor > 0 and block_voxels >= 1, found "
            f"{weighted_passes}, "
            f"{signal_floor:g} and {block_voxels}."
        )
    shape = np.shape(next(iter(echoes.values()))[0])
    for name, images in echoes.items():
        check_echo_times(name, echo_time_s[name], len(images))
        check_shapes(shape, ((f"{name} echo {i + 1}", image) for i, image in enumerate(images)))
    plan = EchoPlan.of({name: echo_time_s[name] for name in echoes})
    flat, order = flatten(image for images in echoes.values() for image in images)
    n, dtype = int(np.prod(shape)), result_dtype(*flat)
    found = np.empty((2 + 2 * len(echoes), n), dtype)
    for start in range(0, n, block_voxels):
        part = slice(start, min(start + block_voxels, n))
        rows = iter(flat)
        signals = [np.array([next(rows)[part] for _ in images], dtype) for images in echoes.values()]
        with np.errstate(over="ignore"):  # beyond float32: infinite
            found[:, part] = fit_block(signals, plan, weighted_passes, signal_floor).rows
    maps = [values.reshape(shape, order=order) for values in found]
    intercepts, residuals = maps[2 : 2 + len(echoes)], maps[2 + len(echoes) :]
    return EstaticsFit(
        maps[0],
        maps[1],
        dict(zip(echoes, intercepts, strict=True)),
        dict(zip(echoes, residuals, strict=True)),
    )
