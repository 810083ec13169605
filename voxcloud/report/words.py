"""Numbers and names as a reader of a journal expects them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from voxcloud.schema import VARIABLES

MAP_NAMES = {
    "R1map": "R1",
    "R2starmap": "R2*",
    "MTsat": "MTsat",
    "PDmap": "PD",
    "volume": "volume",
}
TISSUES = {"GM": "grey matter", "WM": "white matter", "": ""}
MINUS = "\u2212"
DASH = "\u2013"
NONE = "\u2014"


def p_text(p: float | None) -> str:
    """Return p as journals print it: three digits, ``< .001`` below, never 0 and never 1.000 of a smaller p."""
    if p is None or not math.isfinite(p):
        return NONE
    if p < 0.001:
        return "< .001"
    if p > 0.999:
        return "> .999" if p < 1 else "1"
    return f"{p:.3f}".removeprefix("0")


def p_phrase(p: float | None, name: str = "p") -> str:
    """Return ``p = .012`` or ``p < .001``."""
    text = p_text(p)
    return f"{name} {text}" if text[:1] in "<>" else f"{name} = {text}"


def exact(value: Any) -> str:
    """Return all digits of a number, for data attributes and titles."""
    return "" if value is None else repr(float(value)) if isinstance(value, float) else str(value)


def number(value: Any, digits: int = 3) -> str:
    """Return a number with some significant digits and a real minus sign, thousands apart."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f").replace("-", MINUS)
    x = float(value)
    if not math.isfinite(x):
        return NONE
    if x == 0:
        return "0"
    # The magnitude of the rounded number: 0.9999 is 1.00, not 1.000.
    magnitude = int(f"{x:.{digits - 1}e}".split("e")[1])
    if -4 <= magnitude < 5:
        places = max(0, digits - 1 - magnitude)
        text = f"{x:,.{places}f}".replace(",", "\u202f")
    else:
        mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
        text = f"{mantissa}×10{_superscript(int(exponent))}"
    return text.replace("-", MINUS)


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def fixed(value: Any, places: int = 2) -> str:
    """Return a number with a fixed number of decimals (t, z, mm)."""
    if value is None or not math.isfinite(float(value)):
        return NONE
    text = f"{float(value):.{places}f}"
    return text.replace("-", MINUS) if float(text) else text.replace("-", "")


def degrees(df: float | None) -> str:
    """Return degrees of freedom: whole numbers whole, effective ones with one decimal."""
    if df is None:
        return NONE
    return f"{float(df):.0f}" if float(df).is_integer() else f"{float(df):.1f}"


def level(alpha: float) -> str:
    """Return a level as it was set: ``.05``."""
    return f"{alpha:g}".removeprefix("0")


def coordinates(peak: Mapping[str, Any]) -> str:
    """Return ``(26, −22, 50) mm``."""
    return "(" + ", ".join(_mm(peak[k]) for k in ("x", "y", "z_mm")) + ") mm"


def _mm(value: float) -> str:
    return f"{round(float(value), 1):g}".replace("-", MINUS)


def map_name(name: str) -> str:
    """Return the name of a map as papers write it."""
    return MAP_NAMES.get(name, name)


def map_prose(name: str) -> str:
    """Return one sentence on a map, from the registry of variables."""
    return VARIABLES[name].prose if name in VARIABLES else ""


def tissue_words(tree: Mapping[str, Any]) -> str:
    """Return ``grey matter``, or nothing for a map without a tissue."""
    return TISSUES.get(tree.get("label", ""), str(tree.get("label", "")))


def stack_words(tree: Mapping[str, Any]) -> str:
    """Return ``R1, grey matter``."""
    tissue = tissue_words(tree)
    return map_name(str(tree["map"])) + (f", {tissue}" if tissue else "")


def coefficient_words(name: str) -> str:
    """Return what a coefficient stands for."""
    if name in ("value", ""):
        return "value"
    return {"difference": "difference of two days", "mean": "mean of the visits"}.get(name, f"{name} change")


def comparison_title(tree: Mapping[str, Any]) -> str:
    """Return the heading of a comparison."""
    return f"{stack_words(tree)}: {coefficient_words(tree['coefficient'])}, {tree['contrast']}"


def asked(tree: Mapping[str, Any], direction: str | None = None) -> str:
    """Return the test as written, with its direction."""
    test = tree.get("test", "")
    text = test if isinstance(test, str) else " ; ".join(test)
    if str(tree.get("kind", "t")) != "t":
        return f"{text} (F)"
    sign = {"greater": " > 0", "less": " < 0", "two-sided": " ≠ 0"}
    return text + sign.get(direction or str(tree.get("alternative", "")), "")


def place(cluster: Mapping[str, Any]) -> str:
    """Return region and coordinates of a cluster's peak."""
    region = str(cluster.get("region") or "").strip()
    where = coordinates(cluster["peaks"][0])
    return f"{region} {where}" if region else where


def listed(items: Sequence[str], limit: int = 12) -> str:
    """Return ``a, b and c``, the rest counted."""
    shown = [str(i) for i in items[:limit]]
    if len(items) > limit:
        return ", ".join(shown) + f" and {len(items) - limit} more"
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" and {shown[-1]}" if shown else ""


def count(n: int, one: str, many: str = "") -> str:
    """Return ``1 cluster`` or ``3 clusters``."""
    return f"{number(int(n))} {one if n == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """Return a duration in the unit that a reader would choose."""
    if seconds is None:
        return NONE
    s = float(seconds)
    if s < 90:
        return f"{s:.0f} s"
    if s < 5400:
        return f"{s / 60:.1f} min"
    return f"{s / 3600:.1f} h"
