"""The section ``mpm`` of the study file: how maps are made from multi-parameter mapping."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from voxcloud.config.part import Part


class SpoilingCorrection(Part):
    """The sequence's spoiling, from which the correction of R1 is simulated for the protocol at hand."""

    rf_increment_deg: float = Field(137.0, ge=0, lt=360, description="RF spoiling: phase increment in degrees.")
    gradient_mt_per_m: float = Field(26.0, gt=0, le=1000, description="Amplitude of the spoiler gradient in mT/m.")
    duration_ms: float = Field(3.3876, gt=0, le=100, description="Duration of the spoiler gradient in ms.")
    t2_ms: float = Field(70.0, gt=0, le=5000, description="T2 of the tissue in ms.")
    diffusion_um2_per_ms: float = Field(0.8, ge=0, le=10, description="Diffusion coefficient of the tissue in um2/ms.")


class Mpm(Part):
    """How R1, MTsat, PD and R2* are made; everything has a default that fits most studies."""

    preset: Literal["hmri-1.0", "hmri-0.x"] = Field(
        "hmri-1.0",
        description="hmri-1.0: exact R1 and PD, weighted R2*. hmri-0.x: small angles and ordinary least squares, as in "
        "older papers. The settings below change single values of it.",
    )
    weighted_passes: int | None = Field(
        None, ge=0, le=5, description="R2*: passes of weighted least squares; 0 is ordinary. Default: the preset's."
    )
    angles: Literal["exact", "small-angle"] | None = Field(
        None, description="Flip angles in R1 and PD; default: the preset's."
    )
    signal: Literal["te0", "mean-echoes"] | None = Field(
        None, description="Signals extrapolated to TE = 0, or means of echoes; default: the preset's."
    )
    mtsat_correction: Literal["helms", "lipp", "none"] | None = Field(
        None, description="Correction of MTsat for the transmit field; default: the preset's."
    )
    mtsat_constant: float | None = Field(
        None, description="Constant C of that correction; default: 0.4 (helms), 1.2 (lipp)."
    )
    b1: Literal["auto", "AFI", "DAM", "TFL", "RFM", "SESTE", "TB1map"] = Field(
        "auto",
        description="Which B1+ acquisition to use; auto: the one that a session has. Where it has several, name one.",
    )
    missing_b1: Literal["stop", "semi-quantitative"] = Field(
        "stop",
        description="A session without B1+: stop (the others go on), or make maps that are not corrected for it and "
        "say so.",
    )
    b1_smoothing_mm: float = Field(
        8.0, ge=0, le=30, description="FWHM in mm with which a computed B1+ map is smoothed (not a ready-made one)."
    )
    afi_t1_s: float | None = Field(
        None,
        gt=0.05,
        le=20,
        description="AFI: allow for relaxation with this T1 in s (1.2 for the brain at 3 T). Default: the published "
        "first order, which underestimates B1+ by up to 0.8 % and R1 by twice that.",
    )
    missing_b0: Literal["stop", "skip"] = Field(
        "stop", description="SE/STE without a field map: stop, or go on without unwarping and say so."
    )
    spoiling: SpoilingCorrection | None = Field(
        None,
        description="Correct R1 for imperfect spoiling; give the sequence's values, or {} for the defaults. Default: "
        "not corrected.",
    )
    receive: Literal["auto", "none"] = Field(
        "auto", description="Receive sensitivities (RB1COR): used where a session has them, or never."
    )
    registration: Literal["rigid", "none"] = Field(
        "rigid", description="MTw and T1w are registered to PDw, and B1+ too; none: they are taken as aligned."
    )
    run: str | None = Field(
        None, pattern=r"^[A-Za-z0-9]+$", description="Which run to use in sessions that have several, e.g. 1."
    )
