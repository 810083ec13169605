"""The pages and the table of quality control: what is said, in which order, and what is not let in."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxcloud.report.mosaic import edges_png, mosaic_png
from voxcloud.report.qc_cohort import cohort_page, cohort_table
from voxcloud.report.qc_outliers import MEASURES
from voxcloud.report.qc_session import session_page

Quality = dict[str, Any]
NASTY = "<script>alert('x')</script> & \"co\""
FAILED = {
    "sub-04_ses-3": "sub-04_ses-3, AFI: expected two images, found one.\nsub-04_ses-3, T1w: EchoTime 2.34 is in ms.",
    "sub-11_ses-1": "sub-11_ses-1, T1w to PDw: the registration failed.",
}


@pytest.fixture(scope="module")
def figures() -> dict[str, bytes]:
    """Pictures of a small head."""
    grid = np.indices((40, 48, 40)) - np.array([20, 24, 20])[:, None, None, None]
    volume = np.where((grid**2).sum(axis=0) < 18**2, 0.9 + 0.01 * grid[0], np.nan).astype(np.float32)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    drawn = {
        name: mosaic_png(volume, affine, low=0.0, high=1.6, title=name, units="1/s")
        for name in ("R1map", "MTsat", "R2starmap", "M0map", "TB1map", "R1map error")
    }
    for name in ("T1w to PDw", "MTw to PDw"):
        drawn[name] = edges_png(volume, volume, volume, affine, title=name)
    return drawn


@pytest.fixture(scope="module")
def cohort(fake_quality: Any) -> list[Quality]:
    """Four people, three visits each; one visit stands out."""
    found: list[Quality] = fake_quality.fake_cohort(4, 3)
    found[4] = fake_quality.fake_session("02", "2", seed=1, factor=1.3)
    return found


def text_of(page: str) -> str:
    """Return what a reader sees."""
    without = re.sub(r"<(style|title|script)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without)).split())


def asked_for(page: str) -> list[str]:
    """Return what a page would load."""
    found = re.findall(r"""(?:src|srcset|data|poster|action)=["']?([^"'\s>]+)""", page)
    found += re.findall(r"""<link[^>]*href=["']?([^"'\s>]+)""", page)
    return [url for url in found + re.findall(r"url\(([^)]+)\)", page) if not url.startswith("data:")]


def test_session_page__loads_nothing_and_is_small(fake_quality: Any, figures: dict[str, bytes]) -> None:
    page = session_page(fake_quality.fake_session(), figures)
    assert asked_for(page) == []
    assert "<script" not in page
    assert len(page) < 1.5e6
    assert page.count("data:image/png;base64,") >= len(figures)
    assert 'name="viewport"' in page


def test_session_page__says_who_how_and_what(fake_quality: Any, figures: dict[str, bytes]) -> None:
    qc = fake_quality.fake_session("07", "2", seed=4)
    text = text_of(session_page(qc, figures))
    assert "sub-07_ses-2" in text
    assert "hmri-1.0" in text
    assert "AFI" in text
    for sentence in qc["corrections"]:
        assert sentence in text
    assert "2.34" in text  # first echo time in ms
    assert "T1w to PDw" in text
    for measure in ("R1", "MTsat", "R2*"):
        assert measure in text


def test_session_page__warnings_come_before_maps(fake_quality: Any, figures: dict[str, bytes]) -> None:
    warning = "sub-01_ses-1, T1w: has 5 echoes; R2* is better with at least 6."
    page = session_page(fake_quality.fake_session(warnings=[warning], factor=1.4), figures)
    text = text_of(page)
    first_picture = page.index("data:image/png")
    assert page.index("has 5 echoes") < first_picture
    assert text.index("outside what is published") < text.index("Maps")


def test_session_page__a_session_that_is_fine_has_no_cautions(fake_quality: Any, figures: dict[str, bytes]) -> None:
    page = session_page(fake_quality.fake_session(factor=1.0, noise=0.0), figures)
    assert "outside what is published" not in page
    assert '<ul class="cautions">' not in page


def test_session_page__escapes_everything(fake_quality: Any, figures: dict[str, bytes]) -> None:
    qc = fake_quality.fake_session(warnings=[NASTY], corrections=[NASTY])
    qc["made"]["Preset"] = NASTY
    qc["registration"][0]["name"] = NASTY
    qc["maps"][NASTY] = qc["maps"]["M0map"]
    page = session_page(qc, {**figures, NASTY: figures["MTsat"]})
    assert "<script" not in page
    assert text_of(page).count(NASTY) >= 4


def test_session_page__without_b1_masks_or_registration(fake_quality: Any, figures: dict[str, bytes]) -> None:
    nothing = {"median": None, "p25": None, "p75": None, "n": 0, "missing": None}
    qc = fake_quality.fake_session(b1=None)
    qc["made"] = {"Preset": "hmri-1.0", "B1Method": "none", "SpoilingCorrection": False}
    qc["motion_degradation"] = dict.fromkeys(("PDw", "T1w", "MTw"))
    qc["registration"] = [{"name": "sub-01_ses-1, T1w to PDw", "method": "none"}]
    qc["field_strength_t"] = None
    for numbers in qc["maps"].values():
        numbers.update(WM=nothing, GM=nothing, snr_WM=None)
        numbers["histogram"].update(WM=[0] * 60, GM=[0] * 60)
    text = text_of(session_page(qc, {}))
    assert "not registered" in text
    assert "None" not in text
    assert "nan" not in text.lower().split()


def test_session_page__a_data_set_without_sessions(fake_quality: Any, figures: dict[str, bytes]) -> None:
    page = session_page(fake_quality.fake_session("05", ""), figures)
    assert "sub-05" in text_of(page)
    assert "_ses-" not in text_of(page)
    assert 'href="../qc.html"' in page


def test_session_page__leads_back_to_the_cohort(fake_quality: Any, figures: dict[str, bytes]) -> None:
    assert 'href="../../qc.html"' in session_page(fake_quality.fake_session(), figures)


def test_cohort_page__what_failed_comes_first(cohort: list[Quality]) -> None:
    text = text_of(cohort_page("demo", cohort, FAILED, ["sub-02: sessions are made in different ways"]))
    places = [text.index("found one."), text.index("EchoTime 2.34"), text.index("outside what is published")]
    assert places == sorted(places)
    assert max(places) < text.index("Session by session")
    assert "sub-02: sessions are made in different ways" in text


def test_cohort_page__names_the_session_that_stands_out(cohort: list[Quality]) -> None:
    page = cohort_page("demo", cohort, {}, [])
    text = text_of(page)
    listed = text[text.index("To look at") : text.index("Session by session")]
    assert "sub-02_ses-2" in listed
    assert "1.30 1/s" in listed
    assert "sub-01_ses-1" not in listed


def test_cohort_page__links_to_every_session_by_a_relative_path(cohort: list[Quality]) -> None:
    page = cohort_page("demo", cohort, FAILED, [])
    links = set(re.findall(r'href="([^"#][^"]*)"', page)) - {"data:,"}
    assert {qc["page"] for qc in cohort} <= links
    assert all(not link.startswith(("/", "http", "..")) for link in links if not link.startswith("https://doi.org/"))


def test_cohort_page__loads_nothing_and_escapes_everything(fake_quality: Any) -> None:
    sessions = fake_quality.fake_cohort(2, 2)
    sessions[0]["warnings"] = [NASTY]
    page = cohort_page(NASTY, sessions, {NASTY: NASTY}, [NASTY])
    assert "<script" not in page
    assert asked_for(page) == []
    assert NASTY in text_of(page)


def test_cohort_page__nothing_was_made(fake_quality: Any) -> None:
    text = text_of(cohort_page("demo", [], FAILED, []))
    assert "the registration failed" in text
    assert "None" not in text


def test_cohort_page__a_single_session(fake_quality: Any) -> None:
    text = text_of(cohort_page("demo", [fake_quality.fake_session(factor=1.0, noise=0.0)], {}, []))
    assert "sub-01_ses-1" in text


def test_cohort_page__sessions_of_different_kinds(fake_quality: Any) -> None:
    sessions = fake_quality.fake_cohort(3, 2)
    sessions[0]["b1"] = None
    sessions[1]["field_strength_t"] = 7.0
    sessions[2]["maps"].pop("MTsat")
    sessions[2]["thumbnails"].pop("MTsat")
    sessions[2]["motion_degradation"].pop("MTw")
    sessions[3]["made"] |= {"Preset": "hmri-0.x"}
    text = text_of(cohort_page("demo", sessions, {}, []))
    assert "hmri-0.x" in text
    assert "None" not in text


def test_cohort_page__stays_small_with_many_sessions(fake_quality: Any) -> None:
    page = cohort_page("demo", fake_quality.fake_cohort(49, 5), FAILED, [])
    assert len(page.encode()) < 8e6


def test_cohort_table__has_a_row_per_session_and_explains_every_column(cohort: list[Quality]) -> None:
    columns, rows, dictionary = cohort_table(cohort)
    assert len(rows) == len(cohort)
    assert list(dictionary) == list(columns)
    assert {m.key for m in MEASURES} <= set(columns)
    assert all(set(row) <= set(columns) for row in rows)
    assert all(entry["Description"] for entry in dictionary.values())
    assert dictionary["R1map_WM"]["Units"] == "1/s"
    assert rows[4]["participant_id"] == "sub-02"
    assert rows[4]["session_id"] == "ses-2"
    assert rows[4]["R1map_WM"] == pytest.approx(cohort[4]["maps"]["R1map"]["WM"]["median"], rel=1e-5)
    assert "outside what is published" in str(rows[4]["named"])
    assert rows[0]["named"] is None


def test_cohort_table__holds_only_numbers_and_text(cohort: list[Quality]) -> None:
    _, rows, dictionary = cohort_table([cohort[0] | {"b1": None}])
    json.dumps([rows, dictionary], allow_nan=False)
    assert rows[0]["b1_median"] is None


@pytest.mark.service
def test_qc_pages__a_browser_shows_them_on_a_phone(
    cohort: list[Quality], fake_quality: Any, figures: dict[str, bytes], tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("chromium is not installed; make services installs it")
    pages = {"session": session_page(cohort[4], figures), "cohort": cohort_page("demo", cohort, FAILED, [])}
    for name, page in pages.items():
        path = tmp_path / f"{name}.html"
        # The page tells its own width: what is wider than the screen would make a reader scroll sideways.
        probe = "<script>document.title = document.documentElement.scrollWidth + ' ' + window.innerWidth</script>"
        loose = page.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
        path.write_text(loose.replace("</body>", probe + "</body>"), encoding="utf-8")
        ran = subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"),
                *("--window-size=500,900", "--virtual-time-budget=4000", "--dump-dom", path.as_uri()),
            ],
            check=True,
            timeout=120,
            capture_output=True,
            text=True,
        )
        title = re.search(r"<title>(\d+) (\d+)</title>", ran.stdout)
        assert title is not None
        assert int(title[1]) <= int(title[2]), name
