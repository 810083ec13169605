"""The section ``dwi`` of the study file: how maps are made from diffusion images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from voxcloud.config.part import Part


class Dwi(Part):
    """How FA, MD, AD and RD are made; everything has a default that fits most studies."""

    denoise: Literal["mp-pca", "none"] = Field("mp-pca", description="Denoise by MP-PCA before anything else, or not.")
    unringing: Literal["auto", "none"] = Field(
        "auto",
        description="Remove Gibbs ringing; auto: where all of k-space was measured. With partial Fourier it is left "
        "out, which is told.",
    )
    missing_b0: Literal["stop", "skip"] = Field(
        "stop",
        description="A session without field map or images of opposite phase encoding: stop (the others go on), or go "
        "on with the distortion of the static field and say so.",
    )
    motion: Literal["rigid", "none"] = Field(
        "rigid", description="Register every volume to its prediction from the others; none: taken as aligned."
    )
    eddy: Literal["quadratic", "linear", "none"] = Field(
        "quadratic", description="Field of the eddy currents over space, estimated with the movement."
    )
    replace_outliers: bool = Field(
        True, description="Replace slices that lost their signal by their prediction; false: only name them."
    )
    outlier_sd: float = Field(
        4.0, gt=1, le=20, description="A slice is an outlier this many standard deviations below its prediction."
    )
    bias: Literal["n4", "none"] = Field(
        "n4", description="Take the receive field out of S0 and the corrected series (FA and MD do not depend on it)."
    )
    frame: Literal["check", "trust"] = Field(
        "check",
        description="Check the frame of the b-vectors by the continuity of fibres and refuse a wrong one, or trust it.",
    )
    scale_by_length: bool = Field(
        False, description="b-vectors shorter than 1 mean that b is the table's times their squared length."
    )
    series: bool = Field(True, description="Write the corrected series too, with its b-values and b-vectors.")
    run: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9]+$",
        description="Which run to use in sessions that have several, e.g. 1; all: join them.",
    )
