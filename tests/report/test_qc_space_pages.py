"""The pages on template space: what is said, in which order, and what is not let in."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from voxcloud.report import qc_space_cohort
from voxcloud.report.qc_outliers import who_of
from voxcloud.report.qc_space_cohort import cohort_page, cohort_table, find_cohort_outliers
from voxcloud.report.qc_space_figures import change_figure, movement_figure
from voxcloud.report.qc_space_measures import PEOPLE_MEASURES, VISIT_MEASURES, people_of, visits_of
from voxcloud.report.qc_space_session import anatomy_page, maps_page

Quality = dict[str, Any]
NASTY = "<script>alert('x')</script> & \"co\""
OF_TWO = "sub-14_ses-2: expected a visit that agrees with the others by at least 0.9, found 0.612."
FAILED = {"sub-14": OF_TWO, "sub-14_ses-1": OF_TWO, "sub-15_ses-1_dwi": "no b = 0", "sub-15_ses-1": "no b = 0"}


@pytest.fixture(scope="module")
def bad(fake_space: ModuleType) -> tuple[Quality, str]:
    """A participant whose head lies 8 mm away, whose second visit is odd and whose third changed."""
    found: tuple[Quality, str] = fake_space.fake_anatomy(
        "09", shift_mm=8.0, agreement={"2": 0.91}, change={"3": 6.0}, flagged="expected three tissues, found two."
    )
    return found


@pytest.fixture(scope="module")
def cohort(fake_space: ModuleType, bad: tuple[Quality, str]) -> tuple[list[Quality], list[Quality]]:
    """Thirteen people, three visits each; the ninth is bad, and one visit's diffusion lies beside the anatomy."""
    bodies, sessions = deepcopy(fake_space.fake_cohort(13, 3))
    bodies[8] = bad[0]
    wrong = fake_space.fake_maps("05", "2", "dwi", beside_mm=8.0)[0]
    sessions[[s["page"] for s in sessions].index(wrong["page"])] = wrong
    return bodies, sessions


def text_of(page: str) -> str:
    """Return what a reader sees."""
    without = re.sub(r"<(style|title|script)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without)).split())


def asked_for(page: str) -> list[str]:
    """Return what a page would load."""
    found = re.findall(r"""(?:src|srcset|data|poster|action)=["']?([^"'\s>]+)""", page)
    found += re.findall(r"""<link[^>]*href=["']?([^"'\s>]+)""", page)
    return [url for url in found + re.findall(r"url\(([^)]+)\)", page) if not url.startswith("data:")]


def has_texts(page: str) -> bool:
    """Whether every picture and every figure has a text for those who do not see it."""
    images, drawn = re.findall(r"<img [^>]*>", page), re.findall(r"<svg [^>]*>", page)
    return all(re.search(r'alt="[^"]{10,}"', tag) for tag in images) and all(
        'role="img"' in tag and re.search(r'aria-label="[^"]{10,}"', tag) for tag in drawn
    )


def test_anatomy_page__loads_nothing_and_every_picture_has_a_text(bad: tuple[Quality, str]) -> None:
    page = bad[1]
    assert asked_for(page) == []
    assert "<script" not in page
    assert page.count("<img ") == 3
    assert page.count("<svg ") == 2
    assert has_texts(page)
    assert len(page) < 1.5e6


def test_anatomy_page__says_what_was_found_in_numbers(bad: tuple[Quality, str]) -> None:
    tree, page = bad
    text = text_of(page)
    assert "sub-09: anatomy in template space" in text
    assert "MTsat of 3 visits: ses-1, ses-2, ses-3" in text
    assert f"{tree['volumes_ml']['TIV']:.0f} ml inside the skull" in text
    for label, words in (("GM", "grey matter"), ("WM", "white matter"), ("CSF", "fluid")):
        assert f"{words} {tree['volumes_ml'][label]:.1f}" in text
    assert f"{tree['dice']['GM']:.3f}" in text
    assert f"{tree['jacobian']['p01']:.3f}" in text
    for place in tree["midpoint"]["visits"]:
        assert f"{place['agreement']:.3f}" in text
        assert ", ".join(f"{v:.2f}" for v in place["translation_mm"]).replace("-", "−") in text
    assert "+6.00" in text
    assert "engine greedy" in text


def test_anatomy_page__what_is_wrong_comes_first_with_what_to_do(bad: tuple[Quality, str]) -> None:
    page = bad[1]
    first = page.index("data:image/png")
    for words in ("Dice of grey matter: 0.7", "Next: look whether the outlines follow", "6.00 %", "found two."):
        assert page.index(words) < first
    assert "Nothing stands out" not in page


def test_anatomy_page__leads_back_to_everybody(bad: tuple[Quality, str]) -> None:
    assert 'href="../qc_space.html">All participants' in bad[1]


def test_anatomy_page__a_single_visit_and_a_data_set_without_sessions(fake_space: ModuleType) -> None:
    page = fake_space.fake_anatomy("03", ("",), seed=1)[1]
    text = text_of(page)
    assert "MTsat of 1 visit." in text
    assert "ses-" not in text
    assert "None" not in text
    assert page.count("<svg ") == 0
    assert "Nothing stands out from fixed limits" in text


def test_anatomy_page__nothing_could_be_measured(fake_space: ModuleType) -> None:
    tree = fake_space.fake_anatomy()[0]
    for key in ("volumes_ml", "dice", "jacobian"):
        tree[key] = dict.fromkeys(tree[key])
    tree |= {"change_percent": {}, "normalisation": {}, "midpoint": {"visits": []}, "segmentation": {}}
    body = fake_space.fake_body()
    text = text_of(anatomy_page(tree, body.template, body.image, body.probability, body.jacobian))
    assert "None" not in text
    assert "nan" not in text.lower().split()


def test_anatomy_page__escapes_everything(fake_space: ModuleType) -> None:
    tree = fake_space.fake_anatomy()[0]
    tree |= {"warnings": [NASTY], "sessions": [NASTY, "2", "3"], "segmentation": {NASTY: NASTY}}
    tree["change_percent"] = {NASTY: {"GM": 1.0, "WM": 1.0}} | tree["change_percent"]
    body = fake_space.fake_body()
    page = anatomy_page(tree, body.template, body.image, body.probability, body.jacobian)
    assert "<script" not in page
    assert NASTY in text_of(page)


def test_maps_page__medians_beside_published_ranges(fake_space: ModuleType) -> None:
    tree, page = fake_space.fake_maps("07", "2")
    text = text_of(page)
    assert f"R1 white matter {tree['medians']['R1map']['WM']:.3f} 1/s 0.76 to 1.12" in text
    assert "outside" not in re.findall(r'<td class="([^"]*)"', page)
    assert "factor 0.0930" in text
    assert page.count("<img ") == 4
    assert has_texts(page)
    assert asked_for(page) == []
    assert 'href="../../sub-07/sub-07_desc-space_qc.html"' in page
    assert 'href="../../qc_space.html">All participants' in page


def test_maps_page__what_is_outside_is_marked_at_3_t_only(fake_space: ModuleType) -> None:
    tree = fake_space.fake_maps()[0]
    body = fake_space.fake_body()
    maps = {"R1map": body.image}
    tree["medians"]["R1map"]["WM"] = 1.4
    marked = '<td class="n outside">1.40</td>'
    assert marked in maps_page(tree, body.template, maps)
    for strength in (7.0, None):
        page = maps_page(tree | {"field_strength_t": strength}, body.template, maps)
        assert marked not in page
        assert ("0.76 to 1.12" in page) == (strength is None)


def test_maps_page__diffusion_tells_its_registration_and_diffusivities_in_thousandths(fake_space: ModuleType) -> None:
    tree, page = fake_space.fake_maps("07", "2", "dwi")
    text = text_of(page)
    assert "diffusion in template space" in text
    assert f"MD white matter {1e3 * tree['medians']['MD']['WM']:.3f} 10⁻³ mm²/s" in text
    assert f"{tree['registration']['agreement']:.3f}" in text
    assert "Published" not in text


def test_maps_page__holes_are_named_and_pink(fake_space: ModuleType) -> None:
    tree, page = fake_space.fake_maps(cut=15)
    assert tree["missing"]["R1map"] > 0.05
    assert f"Brain without a value: {100 * tree['missing']['R1map']:.1f}" in page
    assert "no value within the template" in page


def test_maps_page__nothing_was_measured(fake_space: ModuleType) -> None:
    tree = fake_space.fake_maps()[0]
    tree["medians"] = {"R1map": {"GM": None, "WM": None}}
    tree |= {"missing": {"R1map": None}, "calibration": None, "warnings": [NASTY]}
    page = maps_page(tree, fake_space.fake_body().template, {})
    assert "None" not in text_of(page)
    assert "<script" not in page


def test_change_figure__has_a_line_for_each_tissue_and_every_visit(bad: tuple[Quality, str]) -> None:
    visits = visits_of([bad[0]], [])
    figure = change_figure(visits)
    assert figure.count("<circle") == 6
    assert "ses-3, GM: 6.00 %" in figure
    assert change_figure(visits[:1]) == ""
    assert movement_figure(visits[:1]) == ""
    assert movement_figure(visits).count("<circle") == 6


def test_thumbnails__are_small_enough_for_the_tree(cohort: tuple[list[Quality], list[Quality]]) -> None:
    for tree in (*cohort[0], *cohort[1]):
        assert 1000 < len(tree["thumbnail"]) < 40_000
        assert base64.b64decode(tree["thumbnail"]).startswith(b"\x89PNG")
        json.dumps(tree, allow_nan=False)


def test_cohort_page__a_bad_one_jumps_out(cohort: tuple[list[Quality], list[Quality]]) -> None:
    page = cohort_page("demo", *cohort, FAILED, [])
    text = text_of(page)
    assert "13 participants in template space 39 visits with maps there" in text
    assert "2 participants of whom something failed 2 participants stand out" in text
    listed = page[page.index('id="look"') : page.index('id="pictures"')]
    who = re.findall(r'<td class="who" rowspan="\d+"><a href="([^"]+)">([^<]+)</a>', listed)
    assert who[0] == ("sub-09/sub-09_desc-space_qc.html", "sub-09")
    assert {name for _, name in who} == {"sub-09", "sub-09_ses-2", "sub-09_ses-3", "sub-05_ses-2"}
    framed = re.findall(r'class="named"><b>(\S+)', page)
    assert framed == ["sub-09"]
    marked = re.findall(r"<polygon[^>]*><title>([^:]+): [^<]*", page[page.index('id="strips"') :])
    assert set(marked) >= {"sub-09", "sub-09_ses-2", "sub-05_ses-2"}


def test_cohort_page__what_failed_comes_first_and_once(cohort: tuple[list[Quality], list[Quality]]) -> None:
    page = cohort_page("demo", *cohort, FAILED, ["sub-16: expected a session with MTsat, found none."])
    text = text_of(page)
    assert text.count("found 0.612") == 1
    assert text.count("no b = 0") == 1
    places = [text.index(words) for words in ("found 0.612", "no b = 0", "To look at", "sub-16: expected", "Everybody")]
    assert places == sorted(places)
    assert re.findall(r'<tr class="flagged"><td class="who">([^<]+)', page) == ["sub-14", "sub-15_ses-1"]


def test_cohort_page__measures_lead_to_where_one_sees_them(cohort: tuple[list[Quality], list[Quality]]) -> None:
    page = cohort_page("demo", *cohort, {}, [])
    links = {
        html.unescape(words): place for place, words in re.findall(r'<td><a href="([^"]+)">([^<]+)</a></td>', page)
    }
    assert links["Dice of white matter"] == "sub-09/sub-09_desc-space_qc.html"
    assert links["Agreement with the other visits"] == "sub-09/sub-09_desc-space_qc.html"
    assert links["FA in white matter, median"].endswith("sub-05_ses-2_desc-spacedwi_qc.html")
    assert links["Brain without a value"].endswith("sub-05_ses-2_desc-spacedwi_qc.html")


def test_cohort_page__every_link_is_to_a_page_that_is_written(cohort: tuple[list[Quality], list[Quality]]) -> None:
    page = cohort_page("demo", *cohort, FAILED, [], other="qc.html")
    links = set(re.findall(r'href="([^"#][^"]*)"', page)) - {"data:,"}
    pages = {tree["page"] for tree in (*cohort[0], *cohort[1])}
    assert links == pages | {"qc.html", "tables/qc_space.tsv", "tables/qc_space.json"}
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))
    assert asked_for(page) == []
    assert has_texts(page)


def test_cohort_page__everybodys_picture_is_there_in_order(cohort: tuple[list[Quality], list[Quality]]) -> None:
    page = cohort_page("demo", *cohort, {}, [])
    assert re.findall(r'alt="Mean image of (\S+) under', page) == [f"sub-{k:02d}" for k in range(1, 14)]
    assert len(re.findall(r'alt="FA of \S+ under', page)) == 39
    assert len(re.findall(r'alt="MTsat of \S+ under', page)) == 39


def test_cohort_page__of_more_pictures_than_fit_heads_and_the_named_are_shown(
    cohort: tuple[list[Quality], list[Quality]], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [len(tree["thumbnail"]) for tree in cohort[0]]
    monkeypatch.setattr(qc_space_cohort, "PICTURE_BYTES", heads[8] + max(heads) + 100)
    page = cohort_page("demo", *cohort, {}, [])
    shown = re.findall(r'alt="Mean image of (\S+) under', page)
    assert len(shown) == 2
    assert "sub-09" in shown
    assert f"{13 + 78 - 2} pictures are on the pages" in text_of(page)


def test_cohort_page__small_studies_and_empty_ones(cohort: tuple[list[Quality], list[Quality]]) -> None:
    bodies, sessions = cohort
    text = text_of(cohort_page("demo", bodies[:2], [s for s in sessions if s["participant_id"] < "03"], {}, []))
    assert "No participant and no visit stands out from fixed limits" in text
    assert "compared with one another from 10 on" in text
    text = text_of(cohort_page("demo", [], [], FAILED, []))
    assert "Nobody is in template space yet." in text
    assert "found 0.612" in text
    assert "None" not in text


def test_cohort_page__different_contrasts_are_told(cohort: tuple[list[Quality], list[Quality]]) -> None:
    bodies = [*cohort[0][:3], cohort[0][3] | {"contrast": "R1map"}]
    assert "aligned by different images (MTsat, R1)" in text_of(cohort_page("demo", bodies, [], {}, []))


def test_cohort_page__escapes_everything(cohort: tuple[list[Quality], list[Quality]]) -> None:
    bodies, sessions = deepcopy(cohort)
    bodies[0]["warnings"] = [NASTY]
    sessions[0]["shown"] = NASTY
    bodies[1]["participant_id"] = NASTY
    page = cohort_page(NASTY, bodies, sessions, {NASTY: NASTY}, [NASTY])
    assert "<script" not in page
    assert asked_for(page) == []
    assert NASTY in text_of(page)


def test_cohort_page__stays_small_with_many_participants(fake_space: ModuleType) -> None:
    assert len(cohort_page("demo", *fake_space.fake_cohort(49, 5), FAILED, []).encode()) < 9e6


def test_cohort_table__has_a_row_per_visit_and_explains_every_column(
    cohort: tuple[list[Quality], list[Quality]],
) -> None:
    columns, rows, dictionary = cohort_table(*cohort)
    assert len(rows) == 39
    assert list(dictionary) == list(columns)
    assert {m.key for m in (*PEOPLE_MEASURES, *VISIT_MEASURES)} <= set(columns)
    assert all(set(row) == set(columns) for row in rows)
    assert all(entry["Description"] for entry in dictionary.values())
    row = rows[25]
    assert (row["participant_id"], row["session_id"]) == ("sub-09", "ses-2")
    assert row["dice_WM"] == pytest.approx(cohort[0][8]["dice"]["WM"], rel=1e-5)
    assert row["agreement"] == 0.91
    assert row["warnings"] == 1
    assert "Agreement with the other visits" in str(row["named"])
    assert "Dice of white matter" in str(row["named"])
    assert rows[0]["named"] is None
    json.dumps([rows, dictionary], allow_nan=False)


def test_find_cohort_outliers__order_of_files_does_not_matter(cohort: tuple[list[Quality], list[Quality]]) -> None:
    bodies, sessions = cohort
    assert find_cohort_outliers(bodies, sessions) == find_cohort_outliers(bodies[::-1], sessions[::-1])
    assert cohort_page("demo", bodies, sessions, {}, []) == cohort_page("demo", bodies[::-1], sessions[::-1], {}, [])
    assert [who_of(p) for p in people_of(bodies[::-1])] == [who_of(p) for p in people_of(bodies)]


@pytest.mark.service
def test_qc_space_pages__a_browser_shows_them_on_a_phone(
    cohort: tuple[list[Quality], list[Quality]], bad: tuple[Quality, str], fake_space: ModuleType, tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("chromium is not installed; make services installs it")
    pages = {
        "anatomy": bad[1],
        "maps": fake_space.fake_maps(cut=15)[1],
        "diffusion": fake_space.fake_maps(modality="dwi")[1],
    }
    pages["cohort"] = cohort_page("demo", *cohort, FAILED, [], other="qc.html")
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
