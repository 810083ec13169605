"""The scanner of one session, as the sidecars of its images tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from voxcloud.bids.protocol import Findings, Quantity, Scan, Slip, is_number, shown
from voxcloud.bids.signatures import comparable

SCANNER_KEYS = (
    "Manufacturer",
    "ManufacturersModelName",
    "MagneticFieldStrength",
    "ReceiveCoilName",
    "NonlinearGradientCorrection",
    "SoftwareVersions",
)
FIELD_STRENGTH = Quantity(
    ("MagneticFieldStrength",), "T", 0.05, 20.0, (Slip(1e-4, "divide gauss by 10000"), Slip(1e-3, "divide mT by 1000"))
)


DISTORTION = "DistortionCorrection"


def _distortion(image_type: Any) -> str:
    """Return which gradient distortion correction DICOM's ImageType tells of: 3D, 2D or none."""
    words = [str(word).upper() for word in image_type] if isinstance(image_type, list) else []
    return next((kind for word, kind in (("DIS3D", "3D"), ("DIS2D", "2D")) if word in words), "none")


def read_scanner(scans: Sequence[Scan], findings: Findings) -> dict[str, Any]:
    """Return the entries ``SCANNER_KEYS`` on which all images agree that state them.

    Two field strengths are refused; another entry that differs is left out, with a warning.
    """
    found: dict[str, Any] = {}
    for key in SCANNER_KEYS:
        values: dict[str, tuple[Any, str]] = {}
        for scan in scans:
            value = scan.metadata.get(key)
            if value is not None:
                values.setdefault(comparable(value), (value, scan.name))
        if len(values) == 1:
            value = next(iter(values.values()))[0]
            found[key] = value.strip() if isinstance(value, str) else value
        elif values:
            text = ", ".join(f"{shown(value)} ({name})" for value, name in values.values())
            if key == "MagneticFieldStrength":
                findings.refuse(
                    f"expected one MagneticFieldStrength for all series, found {text} T. Relaxation depends on it: "
                    "check whether the series belong to one session."
                )
            else:
                findings.warn(f"{key} differs between the series: {text}. Check whether they were acquired alike.")
    corrected = {_distortion(scan.metadata.get("ImageType")) for scan in scans if scan.metadata.get("ImageType")}
    if len(corrected) == 1:
        found[DISTORTION] = corrected.pop()
    elif corrected:
        text = ", ".join(sorted(corrected))
        findings.warn(f"{DISTORTION} differs between the series: {text}. Check whether they were exported alike.")
    strength = found.get("MagneticFieldStrength")
    if strength is not None and not (is_number(strength) and FIELD_STRENGTH.fits(strength)):
        hint = FIELD_STRENGTH.hint(strength) if is_number(strength) else "Write the number without quotes."
        findings.refuse(f"expected {FIELD_STRENGTH.expectation}, found {shown(strength)}. {hint}")
    return found
