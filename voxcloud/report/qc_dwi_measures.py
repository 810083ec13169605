"""A diffusion session's quality control: what its file holds, which of its numbers are compared, who stands out.

``sub-01_ses-1_desc-dwi_qc.json``, ``schema`` 1. None (``null``) is what was not done or could not be measured; keys
marked with * may be missing. Volumes and slices are counted from 0, slices along the axis of the images in which they
were acquired.

================== ==================================================================================================
key                what
================== ==================================================================================================
participant_id     label; so ``session_id``, empty in a data set without sessions
made               how, in the words of the sidecars: name to text, number, boolean or further names
field_strength_t   as the sidecars have it
voxel_mm *         three sizes
n_volumes, n_b0    volumes, and those with b <= 50 s/mm2
shells             list of ``b`` (s/mm2), ``n`` volumes, ``directions`` that differ in more than their sign
frame              ``verdict`` (right, wrong, unclear), ``message``, ``lead`` in standard errors, as ``FrameCheck``
gibbs              ``done``, ``reason`` why not, or a note
susceptibility     ``method``, ``correlation_before`` and ``_after`` of images with opposite phase encoding,
                   ``displacement_mm``: ``p01``, ``p50``, ``p99``; None where nothing was there to correct with
motion             ``model``: what predicts the volumes; of every volume ``translation_mm`` and ``rotation_deg``
                   (right, front, up); ``fd_mm`` and ``eddy_rms_mm`` *: ``mean``, ``max``, ``per_volume``
outliers           ``slices``: list of ``volume``, ``slice``, ``z``; ``percent`` of all slices that were judged;
                   ``replaced``
snr_b0, snr_noise, cnr, residual, noise, maps, negatives_percent, volume_ml
                   as ``voxcloud.dwi.quality.dwi_quality_numbers`` returns them
corrections        sentences: what was done, in order
warnings           sentences
page               the session's page in the output folder
thumbnails         ``direction``, ``fa``, ``md``: PNG in base64
================== ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from voxcloud.report.qc_outliers import Measure, Outlier, find_outliers, who_of

Quality = Mapping[str, Any]

DWI_QC_SCHEMA = 1
DIFFUSIVITY = "10⁻³ mm²/s"
MAPS = {"fa": "FA", "md": "MD", "ad": "AD", "rd": "RD"}
PICTURES = {"direction": "direction"} | MAPS
PER_MM2_S = 1e3  # from mm2/s to the unit that people read
# Shells of sessions are the same within this part of b.
SAME_SHELL = 0.1
# Medians over tissue of two scans of a person. Regional FA varies by .8 to 3.0 % within a site (Vollmar 2010,
# doi:10.1016/j.neuroimage.2010.03.046); a median over all of white matter should do no worse. Nothing as good was
# found for MD, which is taken alike.
LARGEST_CHANGE = 0.05
# A brain does not change its volume by so much: one of the masks is wrong.
LARGEST_CHANGE_OF_BRAIN = 0.1
# Chosen, not published: a mean movement of a voxel from volume to volume; a tenth of all slices without signal.
MOST_FD_MM, MOST_OUTLIERS = 2.0, 10.0
FRAME = "Lead of another frame of the b-vectors"


def scaled(name: str, value: float | None) -> float | None:
    """Return a map's number in the unit in which it is shown: diffusivities in 10^-3 mm2/s."""
    return value if value is None or name == "fa" else PER_MM2_S * value


def unit_of(name: str) -> str:
    """Return the unit in which a map is shown."""
    return "1" if name == "fa" else DIFFUSIVITY


def _median(name: str, tissue: str) -> Callable[[Quality], float | None]:
    return lambda qc: scaled(name, qc["maps"].get(name, {}).get(tissue, {}).get("median"))


def _inside(*path: str) -> Callable[[Quality], float | None]:
    def value(qc: Quality) -> float | None:
        found: Any = qc
        for key in path:
            found = None if found is None else found.get(key)
        return None if found is None else float(found)

    return value


def _cnr(b: float) -> Callable[[Quality], float | None]:
    def value(qc: Quality) -> float | None:
        near = [e for e in qc["cnr"] if abs(e["b"] - b) <= SAME_SHELL * b and e["cnr"] is not None]
        return float(min(near, key=lambda e: abs(e["b"] - b))["cnr"]) if near else None

    return value


def _white_share(qc: Quality) -> float | None:
    volume = qc["volume_ml"]
    return 100.0 * float(volume["WM"]) / float(volume["brain"]) if volume["brain"] else None


def shells_of(qcs: Sequence[Quality]) -> list[float]:
    """Return the b-values that occur, rounded to 50 s/mm2; those within a tenth of one another are one."""
    found: list[float] = []
    for b in sorted(float(shell["b"]) for qc in qcs for shell in qc["shells"]):
        if not found or b > (1 + SAME_SHELL) * found[-1]:
            found.append(b)
    return list(dict.fromkeys(max(50.0, 50.0 * round(b / 50.0)) for b in found))


def dwi_measures(qcs: Sequence[Quality]) -> tuple[Measure, ...]:
    """Return the numbers of diffusion sessions that are compared; the contrast-to-noise ratio has one for each shell.

    The least spread is a part of a voxel or of a percent that nobody would look at.
    """
    return (
        Measure(
            "fd_mean",
            "Movement between volumes (FD), mean",
            "mm",
            _inside("motion", "fd_mm", "mean"),
            "high",
            0.05,
            skewed=True,
            most=MOST_FD_MM,
        ),
        Measure(
            "fd_max",
            "Movement between volumes (FD), largest",
            "mm",
            _inside("motion", "fd_mm", "max"),
            "high",
            0.1,
            skewed=True,
        ),
        Measure(
            "outliers",
            "Slices that are outliers",
            "percent",
            _inside("outliers", "percent"),
            "high",
            0.3,
            most=MOST_OUTLIERS,
        ),
        Measure("snr_b0", "SNR of b = 0 between volumes", "1", _inside("snr_b0"), "low", 1.0),
        Measure("snr_noise", "SNR of b = 0 over the noise map", "1", _inside("snr_noise"), "low", 0.5),
        *(Measure(f"cnr_{b:.0f}", f"CNR at b = {b:.0f}", "1", _cnr(b), "low", 0.05) for b in shells_of(qcs)),
        Measure(
            "residual", "What the tensor leaves, of S0", "percent", _inside("residual", "median_percent"), "high", 0.1
        ),
        Measure("negatives", "Brain with a negative eigenvalue", "percent", _inside("negatives_percent"), "high", 0.2),
        Measure(
            "eddy",
            "Eddy-current distortion, mean",
            "mm",
            _inside("motion", "eddy_rms_mm", "mean"),
            "high",
            0.05,
            skewed=True,
        ),
        Measure(
            "pair",
            "Likeness of both phase encodings",
            "r",
            _inside("susceptibility", "correlation_after"),
            "low",
            0.005,
        ),
        Measure(
            "fa_WM",
            "FA where it is at least .4, median",
            "1",
            _median("fa", "WM"),
            "either",
            0.005,
            map="fa",
            tissue="WM",
            largest_change=LARGEST_CHANGE,
        ),
        Measure(
            "fa_brain",
            "FA in the brain, median",
            "1",
            _median("fa", "brain"),
            "either",
            0.003,
            map="fa",
            tissue="brain",
        ),
        Measure(
            "md_WM",
            "MD where FA is at least .4, median",
            DIFFUSIVITY,
            _median("md", "WM"),
            "either",
            0.005,
            map="md",
            tissue="WM",
            largest_change=LARGEST_CHANGE,
        ),
        Measure(
            "md_brain",
            "MD in the brain, median",
            DIFFUSIVITY,
            _median("md", "brain"),
            "either",
            0.01,
            map="md",
            tissue="brain",
        ),
        Measure("white_share", "Brain with FA of at least .4", "percent", _white_share, "either", 0.5),
        Measure(
            "brain_ml",
            "Volume of the brain mask",
            "ml",
            _inside("volume_ml", "brain"),
            "either",
            15.0,
            largest_change=LARGEST_CHANGE_OF_BRAIN,
        ),
    )


def find_dwi_outliers(qcs: Sequence[Quality]) -> list[Outlier]:
    """Return what stands out, by session: by the rules of ``find_outliers``, and tables that images contradict."""
    return [*_wrong_frames(qcs), *find_outliers(qcs, dwi_measures(qcs))]


def _wrong_frames(qcs: Sequence[Quality]) -> list[Outlier]:
    found = []
    for qc in qcs:
        frame = qc["frame"] or {}
        if frame.get("verdict") == "wrong":
            lead = float(frame["lead"])
            reason = "in the images fibres go on along other axes or signs than the table says"
            found.append(Outlier(who_of(qc), FRAME, lead, "SE", "none", reason, "limit", max(lead, 10.0)))
    return found
