"""The pages and the table on diffusion: what is said, in which order, and what is not let in."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from voxcloud.report import qc_cohort
from voxcloud.report.qc_dwi_cohort import cohort_page, cohort_table
from voxcloud.report.qc_dwi_measures import dwi_measures
from voxcloud.report.qc_dwi_pictures import dwi_figures
from voxcloud.report.qc_dwi_session import session_page

Quality = dict[str, Any]
NASTY = "<script>alert('x')</script> & \"co\""
FAILED = {"sub-14_ses-1": "sub-14_ses-1: expected 33 b-values, found 34."}


@pytest.fixture(scope="module")
def figures(fake_dwi: ModuleType) -> dict[str, bytes]:
    """Every picture."""
    return dwi_figures(fake_dwi.fake_images())


@pytest.fixture(scope="module")
def cohort(fake_dwi: ModuleType) -> list[Quality]:
    """Thirteen people, three visits each; one visit moved and one has a wrong table."""
    found: list[Quality] = fake_dwi.fake_cohort(13, 3)
    found[16] = fake_dwi.fake_session("06", "2", seed=77, moved=2.6, outliers=140, fa=0.93)
    wrong = {"verdict": "wrong", "message": "sub-10_ses-3: negate y of the table.", "lead": 14.2}
    found[29] = fake_dwi.fake_session("10", "3", seed=99, frame=wrong)
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


def test_session_page__loads_nothing_and_every_figure_has_a_text(
    fake_dwi: ModuleType, figures: dict[str, bytes]
) -> None:
    page = session_page(fake_dwi.fake_session(), figures)
    assert asked_for(page) == []
    assert "<script" not in page
    assert len(page) < 1.5e6
    assert page.count("data:image/png;base64,") == len(figures)
    assert all(re.search(r'alt="sub-01_ses-1: [^"]{5,}"', tag) for tag in re.findall(r"<img [^>]*>", page))
    drawn = re.findall(r"<svg [^>]*>", page)
    assert len(drawn) == 5 + 4  # over volumes, and histograms
    assert all('role="img"' in tag and re.search(r'aria-label="[^"]{10,}"', tag) for tag in drawn)


def test_session_page__says_what_was_scanned_found_and_done(fake_dwi: ModuleType, figures: dict[str, bytes]) -> None:
    qc = fake_dwi.fake_session("07", "2", seed=4)
    text = text_of(session_page(qc, figures))
    assert "sub-07_ses-2: quality of diffusion" in text
    assert "33 volumes; 3 with b = 0; 30 with b = 1000 s/mm² (30 directions); 2 × 2 × 2 mm; 3 T." in text
    for sentence in qc["corrections"]:
        assert sentence in text
    assert f"{qc['snr_b0']:.0f} SNR of b = 0: mean over its noise" in text
    assert f"{qc['cnr'][0]['cnr']:.2f} CNR at b = 1000" in text
    assert f"{1e3 * qc['maps']['md']['WM']['median']:.3f} MD in 10⁻³ mm²/s" in text
    assert "correlate by 0.96" in text
    assert "Nothing stands out from fixed limits" in text


def test_session_page__diffusivities_are_shown_in_thousandths_and_fa_as_it_is(
    fake_dwi: ModuleType, figures: dict[str, bytes]
) -> None:
    qc = fake_dwi.fake_session()
    rows = re.findall(
        r"<tr><td>(FA|MD|AD|RD)</td><td class=\"nowrap\">([^<]+)</td><td class=\"n\">([\d.]+)</td>",
        session_page(qc, {}),
    )
    shown = {(name, where): float(value) for name, where, value in rows}
    assert len(shown) == 8
    assert shown["FA", "brain"] == pytest.approx(qc["maps"]["fa"]["brain"]["median"], abs=6e-4)
    assert shown["RD", "FA ≥ .4"] == pytest.approx(1e3 * qc["maps"]["rd"]["WM"]["median"], abs=6e-4)


def test_session_page__what_is_wrong_comes_before_pictures(fake_dwi: ModuleType, figures: dict[str, bytes]) -> None:
    wrong = {"verdict": "wrong", "message": "sub-01_ses-1: negate y of the table.", "lead": 14.2}
    qc = fake_dwi.fake_session(
        frame=wrong,
        warnings=["sub-01_ses-1: partial Fourier of 0.75."],
        susceptibility=None,
        gibbs={"done": False, "reason": "Partial Fourier of 0.75."},
        moved=2.8,
    )
    page = session_page(qc, figures)
    first = page.index("data:image/png")
    for words in (
        "14.2 SE",
        "along other axes or signs",
        "Partial Fourier of 0.75.",
        "Movement between volumes (FD), mean:",
    ):
        assert page.index(words) < first
    text = text_of(page)
    assert "Frame of the b-vectors not as the table says Negate y of the table." in text
    assert "Gibbs ringing left" in text
    assert "Distortion by the static field not corrected" in text


def test_session_page__names_of_curves_that_would_touch_part(fake_dwi: ModuleType) -> None:
    page = session_page(fake_dwi.fake_session(), {})
    anchors = {}
    for name in ("FA", "MD"):
        own = page[page.index(f"Histogram of {name} ") :]
        anchors[name] = {
            words: anchor for anchor, words in re.findall(r'text-anchor="(\w+)"[^>]*>(WM|brain)<', own)[:2]
        }
    assert anchors["FA"] == {"WM": "middle", "brain": "middle"}
    assert set(anchors["MD"].values()) == {"start", "end"}


def test_session_page__a_correction_that_made_things_worse_is_told(fake_dwi: ModuleType) -> None:
    worse = {"method": "a field map", "correlation_before": 0.8, "correlation_after": 0.7}
    assert "not better By a field map." in text_of(session_page(fake_dwi.fake_session(susceptibility=worse), {}))


def test_session_page__lists_the_furthest_outliers_and_counts_the_others(fake_dwi: ModuleType) -> None:
    qc = fake_dwi.fake_session(outliers=30)
    page = session_page(qc, {})
    rows = re.findall(r'<tr><td class="n">(\d+)</td><td class="n">(\d+)</td><td class="n">([−\d.]+)</td></tr>', page)
    furthest = sorted(qc["outliers"]["slices"], key=lambda s: s["z"])[:12]
    assert [(int(v), int(k)) for v, k, _ in rows] == [(s["volume"], s["slice"]) for s in furthest]
    assert "18 more are in the file for programs" in text_of(page)


def test_session_page__volumes_with_outliers_are_marked_in_the_residuals(fake_dwi: ModuleType) -> None:
    told = {"slices": [{"volume": 9, "slice": 12, "z": -8.0}], "percent": 0.1, "replaced": False}
    page = session_page(fake_dwi.fake_session(outliers=0) | {"outliers": told}, {})
    assert re.findall(r"<title>volume (\d+): ", page) == ["9"]
    assert "left as they are" in text_of(page)


def test_session_page__without_anything_that_may_be_missing(fake_dwi: ModuleType) -> None:
    nothing = dict.fromkeys(("p05", "p25", "median", "p75", "p95", "missing")) | {"n": 0}
    qc = fake_dwi.fake_session(
        frame=None, gibbs=None, susceptibility=None, motion=None, field_strength_t=None, snr_b0=None, snr_noise=None
    )
    qc |= {
        "outliers": None,
        "noise": None,
        "negatives_percent": None,
        "corrections": [],
        "cnr": [{"b": 1e3, "cnr": None}],
    }
    qc["residual"] = {"per_volume_percent": [], "brain_percent": None, "median_percent": None}
    qc["volume_ml"] = {"brain": 0.0, "WM": 0.0}
    qc.pop("voxel_mm")
    for numbers in qc["maps"].values():
        numbers.update(brain=nothing, WM=nothing)
        numbers["histogram"].update(brain=[0] * 60, WM=[0] * 60)
    text = text_of(session_page(qc, {}))
    assert "Movement and eddy currents not corrected" in text
    assert "None" not in text
    assert "nan" not in text.lower().split()
    assert "None" not in text_of(cohort_page("demo", [qc], {}, []))


def test_session_page__escapes_everything(fake_dwi: ModuleType, figures: dict[str, bytes]) -> None:
    qc = fake_dwi.fake_session(warnings=[NASTY], corrections=[NASTY])
    qc["motion"]["model"] = qc["gibbs"]["reason"] = qc["frame"]["message"] = qc["susceptibility"]["method"] = NASTY
    page = session_page(qc, {**figures, NASTY: figures["fa"]})
    assert "<script" not in page
    assert text_of(page).count(NASTY) >= 6


@pytest.mark.parametrize(("session", "up"), [("1", "../../"), ("", "../")])
def test_session_page__leads_back_to_the_cohort(fake_dwi: ModuleType, session: str, up: str) -> None:
    page = session_page(fake_dwi.fake_session("05", session), {})
    assert f'href="{up}qc_dwi.html"' in page


def test_cohort_page__bad_sessions_jump_out(cohort: list[Quality]) -> None:
    page = cohort_page("demo", cohort, FAILED, [])
    text = text_of(page)
    assert "39 sessions with maps 13 participants 1 sessions failed 2 sessions stand out" in text
    listed = page[page.index('id="look"') : page.index('id="strips"')]
    assert re.findall(r'<td class="who" rowspan="\d+"><a href="[^"]+">([^<]+)</a>', listed) == [
        "sub-10_ses-3",  # a wrong table spoils everything
        "sub-06_ses-2",
    ]
    for measure in ("Slices that are outliers", "Movement between volumes (FD), mean", "FA where it is at least .4"):
        assert measure in listed
    assert text.index("found 34.") < text.index("To look at") < text.index("Session by session")


def test_cohort_page__links_to_sessions_and_to_the_page_of_maps(cohort: list[Quality]) -> None:
    page = cohort_page("demo", cohort, {}, [], other="qc.html")
    links = set(re.findall(r'href="([^"#][^"]*)"', page)) - {"data:,"}
    assert {qc["page"] for qc in cohort} | {"qc.html", "tables/qc_dwi.tsv", "tables/qc_dwi.json"} == links
    assert 'href="qc.html"' not in cohort_page("demo", cohort, {}, [])


def test_cohort_page_of_maps__links_to_diffusion_if_there_is_any(fake_quality: ModuleType) -> None:
    sessions = fake_quality.fake_cohort(2, 1)
    assert '<a href="qc_dwi.html">Quality of diffusion</a>' in qc_cohort.cohort_page(
        "demo", sessions, {}, [], other="qc_dwi.html"
    )
    assert "qc_dwi.html" not in qc_cohort.cohort_page("demo", sessions, {}, [])


def test_cohort_page__thumbnails_are_in_the_order_of_sessions(cohort: list[Quality]) -> None:
    page = cohort_page("demo", cohort, {}, [])
    shown = re.findall(r'<img [^>]*alt="direction of ([^"]+)"', page)
    assert shown == [f"sub-{qc['participant_id']}_ses-{qc['session_id']}" for qc in cohort]
    assert page.count("<img ") == 3 * len(cohort)
    framed = re.findall(r'class="named"><b>(\S+)', page)
    assert framed == ["sub-06_ses-2", "sub-10_ses-3"]


def test_cohort_page__different_gradient_tables_are_told_with_who_has_them(fake_dwi: ModuleType) -> None:
    sessions = fake_dwi.fake_cohort(4, 1)
    sessions[1]["shells"] = [{"b": 1005.0, "n": 30, "directions": 30}]
    assert "different gradient tables" not in cohort_page("demo", sessions, {}, [])
    sessions[2]["shells"] = [{"b": 700.0, "n": 30, "directions": 30}]
    text = text_of(cohort_page("demo", sessions, {}, []))
    assert "30 directions at b = 700 in sub-03_ses-1" in text


def test_cohort_page__different_ways_and_strengths_are_told(fake_dwi: ModuleType) -> None:
    sessions = fake_dwi.fake_cohort(2, 2)
    assert "in different ways" not in cohort_page("demo", sessions, {}, [])
    sessions[3]["made"] = {"Denoising": False, "BiasCorrection": "none", "Unringing": True, "Changed": {"stiffness": 2}}
    sessions[0]["field_strength_t"] = 7.0
    text = text_of(cohort_page("demo", sessions, {}, []))
    assert "in different ways (sub-02)" in text
    assert "no denoising, no bias correction, unringing, stiffness 2 (1 session)" in text
    assert "different field strengths (3 T and 7 T)" in text


def test_cohort_page__loads_nothing_and_escapes_everything(fake_dwi: ModuleType) -> None:
    sessions = fake_dwi.fake_cohort(2, 2)
    sessions[0]["warnings"] = [NASTY]
    sessions[1]["made"] = {"Denoising": NASTY}
    page = cohort_page(NASTY, sessions, {NASTY: NASTY}, [NASTY])
    assert "<script" not in page
    assert asked_for(page) == []


def test_cohort_page__nothing_was_made() -> None:
    text = text_of(cohort_page("demo", [], FAILED, []))
    assert "found 34." in text
    assert "None" not in text


def test_cohort_page__stays_small_with_many_sessions(fake_dwi: ModuleType) -> None:
    page = cohort_page("demo", fake_dwi.fake_cohort(49, 5), FAILED, [])
    assert len(page.encode()) < 8e6


def test_cohort_table__has_a_row_per_session_and_explains_every_column(cohort: list[Quality]) -> None:
    columns, rows, dictionary = cohort_table(cohort)
    assert len(rows) == len(cohort)
    assert list(dictionary) == list(columns)
    assert {m.key for m in dwi_measures(cohort)} <= set(columns)
    assert all(set(row) == set(columns) for row in rows)
    assert all(entry["Description"] for entry in dictionary.values())
    assert dictionary["md_WM"]["Units"] == "10⁻³ mm²/s"
    assert rows[16]["participant_id"] == "sub-06"
    assert rows[16]["session_id"] == "ses-2"
    assert rows[16]["md_WM"] == pytest.approx(1e3 * cohort[16]["maps"]["md"]["WM"]["median"], rel=1e-5)
    assert rows[16]["shells"] == "1000 (30)"
    assert "robust SD" in str(rows[16]["named"])
    assert rows[29]["frame"] == "wrong"
    assert rows[0]["named"] is None
    json.dumps([rows, dictionary], allow_nan=False)


@pytest.mark.service
def test_qc_dwi_pages__a_browser_shows_them_on_a_phone(
    cohort: list[Quality], figures: dict[str, bytes], tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("chromium is not installed; make services installs it")
    pages = {"session": session_page(cohort[16], figures), "cohort": cohort_page("demo", cohort, FAILED, [])}
    for name, page in pages.items():
        path, frame = tmp_path / f"{name}.html", tmp_path / f"{name}_frame.html"
        path.write_text(page, encoding="utf-8")
        # A frame is as narrow as a phone; a window of a browser without a screen is not.
        told = "document.title = f.contentDocument.documentElement.scrollWidth + ' ' + f.clientWidth"
        frame.write_text(
            f'<iframe id="f" src="{name}.html" style="width:390px;height:900px;border:0" onload="{told}"></iframe>',
            encoding="utf-8",
        )
        ran = subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"),
                *("--allow-file-access-from-files", "--virtual-time-budget=4000", "--dump-dom", frame.as_uri()),
            ],
            check=True,
            timeout=120,
            capture_output=True,
            text=True,
        )
        title = re.search(r"<title>(\d+) (\d+)</title>", ran.stdout)
        assert title is not None
        assert int(title[2]) == 390
        assert int(title[1]) <= int(title[2]), name
