"""Every stored variable, declared once: name, units, valid range, BIDS suffix, meaning.

The table validates inputs, names outputs and generates the reference page. A wrong unit (milliseconds for seconds,
percent for a fraction) is the commonest defect in quantitative maps: ``check_units`` compares the robust range of
an image with the range in which the map's values can lie.
"""

from __future__ import annotations

from dataclasses import dataclass

from voxcloud.errors import ImageError, nearest

STUDY_SCHEMA = 1
RECORD_SCHEMA = 1
MANIFEST_SCHEMA = 1
STACK_SCHEMA = 1
RESULT_SCHEMA = 1

LABELS = ("GM", "WM", "")
SPATIAL_UNITS = "mm"


@dataclass(frozen=True)
class Variable:
    """One quantity that voxcloud stores.

    ``valid_range`` bounds single values; ``median_range`` bounds the median over the brain, which is what tells
    seconds from milliseconds: single voxels may be extreme, the median of a brain may not.
    """

    name: str
    units: str
    valid_range: tuple[float, float]
    median_range: tuple[float, float]
    suffix: str
    prose: str
    analysable: bool = True
    hint: str = ""


_INF = float("inf")

VARIABLES: dict[str, Variable] = {
    v.name: v
    for v in (
        Variable(
            "R1map",
            "1/s",
            (0.0, 5.0),
            (0.1, 3.0),
            "R1map",
            "Longitudinal relaxation rate R1 = 1/T1.",
            hint="R1 is a rate in 1/s (white matter at 3 T: about 1.0); T1 in ms or s, or R1 in 1/ms, is not accepted",
        ),
        Variable(
            "R2starmap",
            "1/s",
            (-1e4, 1e4),
            (2.0, 200.0),
            "R2starmap",
            "Effective transverse relaxation rate R2*.",
            hint="R2* is a rate in 1/s (brain at 3 T: about 15 to 25); T2* in ms or R2* in 1/ms is not accepted",
        ),
        Variable(
            "MTsat",
            "p.u.",
            (-5.0, 10.0),
            (0.1, 5.0),
            "MTsat",
            "Magnetisation transfer saturation in percent units.",
            hint="MTsat is in percent units (white matter: about 1.7); a fraction is not accepted",
        ),
        Variable(
            "PDmap",
            "p.u.",
            (0.0, 200.0),
            (20.0, 120.0),
            "PDmap",
            "Proton density, white matter scaled to 69 p.u.",
            analysable=False,
            hint="PD is scaled to 69 p.u. in white matter in each session and cannot show longitudinal change there",
        ),
        Variable(
            "M0map",
            "arbitrary",
            (-1e5, 1e5),
            (0.0, 1e5),
            "M0map",
            "Amplitude of the signal at equilibrium: proton density times the receive field, not calibrated.",
            analysable=False,
            hint="it is in arbitrary units; calibrated in white matter it becomes PDmap",
        ),
        Variable(
            "FA",
            "1",
            (0.0, 1.0),
            (0.01, 0.95),
            "model-tensor_param-fa_dwimap",
            "Fractional anisotropy.",
            hint="FA is a fraction between 0 and 1; percent is not accepted",
        ),
        Variable(
            "MD",
            "mm2/s",
            (0.0, 0.02),
            (1e-4, 4e-3),
            "model-tensor_param-md_dwimap",
            "Mean diffusivity.",
            hint="diffusivities are in mm2/s (brain: about 0.7e-3 to 0.9e-3); um2/ms is not accepted",
        ),
        Variable(
            "AD",
            "mm2/s",
            (0.0, 0.02),
            (1e-4, 4e-3),
            "model-tensor_param-ad_dwimap",
            "Axial diffusivity.",
            hint="diffusivities are in mm2/s (brain: about 1e-3); um2/ms is not accepted",
        ),
        Variable(
            "RD",
            "mm2/s",
            (0.0, 0.02),
            (1e-4, 4e-3),
            "model-tensor_param-rd_dwimap",
            "Radial diffusivity.",
            hint="diffusivities are in mm2/s (brain: about 0.6e-3); um2/ms is not accepted",
        ),
        Variable(
            "volume",
            "1",
            (0.0, 20.0),
            (1e-3, 10.0),
            "volume",
            "Modulated tissue probability: tissue volume relative to the template voxel.",
            hint="volume is the tissue probability times the Jacobian determinant (about 0 to 2)",
        ),
        Variable(
            "probseg",
            "1",
            (-1e-3, 1.001),
            (0.0, 1.0),
            "probseg",
            "Tissue probability, not modulated.",
            analysable=False,
            hint="a tissue probability lies between 0 and 1; percent is not accepted",
        ),
        Variable(
            "effect",
            "1",
            (-_INF, _INF),
            (-_INF, _INF),
            "effect",
            "A contrast or effect image from another program; units as made there.",
        ),
    )
}


def variable(name: str) -> Variable:
    """Return the registry entry of a map.

    Raises
    ------
    ImageError
        If no such map is registered; the message names the nearest one.
    """
    try:
        return VARIABLES[name]
    except KeyError:
        raise ImageError(
            f"map '{name}' is not known.{nearest(name, VARIABLES)} Expected one of: {', '.join(VARIABLES)}. "
            "Use 'effect' for images whose units voxcloud need not check."
        ) from None


def check_units(map_name: str, where: str, median: float, low: float, high: float) -> None:
    """Refuse an image whose values cannot be in the units of its map.

    Parameters
    ----------
    map_name
        Name in the registry.
    where
        Participant, session and file, as the message should name them.
    median, low, high
        Median and robust minimum and maximum (1st and 99th percentile) of the finite values in the mask.

    Raises
    ------
    ImageError
        If the median or the robust range lies outside what the map's units allow.
    """
    v = variable(map_name)
    lo, hi = v.valid_range
    mlo, mhi = v.median_range
    if mlo <= median <= mhi and low >= lo - 0.05 * max(abs(lo), mhi) and high <= hi:
        return
    raise ImageError(
        f"{where}: {map_name} is expected in {v.units} with a median over the mask of {mlo:g} to {mhi:g} {v.units} "
        f"and values of {lo:g} to {hi:g}, found median {median:.4g} and 1st to 99th percentile {low:.4g} to "
        f"{high:.4g}; "
        f"{v.hint}. Convert the image to {v.units}, or exclude it (on_bad_image: exclude)."
    )


def stack_name(map_name: str, label: str) -> str:
    """Return the name under which a (map, label) pair is stored, e.g. ``R1map_label-GM``."""
    return f"{map_name}_label-{label}" if label else map_name
