from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from voxcloud.errors import CorruptStoreError
from voxcloud.report.page import write_report

VOID = {"meta", "link", "br", "img", "path", "rect", "image", "circle", "polyline", "polygon"}


class Outline(HTMLParser):
    """Collects elements, what they would load, ids and the ids that are linked to; checks that tags close."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.loads: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.images_without_text = 0
        self.frames: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        for name in ("src", "href", "poster", "data", "action"):
            value = found.get(name)
            if value is not None and not (tag == "a" and name == "href"):
                self.loads.append((tag, value))
        if tag == "a" and (found.get("href") or "").startswith("#"):
            self.anchors.append(str(found["href"])[1:])
        if "id" in found:
            self.ids.append(str(found["id"]))
        if tag == "img" and not found.get("alt"):
            self.images_without_text += 1
        if found.get("srcdoc"):
            self.frames.append(str(found["srcdoc"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag, f"</{tag}> closes another element"


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    return found


def text_of(page: str) -> str:
    inside = re.sub(r"<style.*?</style>|<svg.*?</svg>|srcdoc=\"[^\"]*\"", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", inside))


def test_write_report__elements_close_and_links_lead_somewhere(page: str) -> None:
    found = outline(page)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert set(found.anchors) <= set(found.ids)
    assert found.images_without_text == 0


def test_write_report__loads_nothing_from_outside(page: str) -> None:
    found = outline(page)
    assert len(found.loads) > 3
    assert [load for load in found.loads if not load[1].startswith(("data:", "#"))] == []
    assert not re.search(
        r"@import|url\(\s*['\"]?(?!data:)", re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    )  # type: ignore[union-attr]
    assert len(found.frames) == 1
    frame = re.sub(r"<script>.*?</script>", "", found.frames[0], flags=re.DOTALL)
    assert re.findall(r"https?://", frame) == []
    assert re.findall(r"\ssrc=['\"]?(?!data:|['\"])", frame) == []


def test_write_report__relative_links_exist(results_folder: Path, page: str) -> None:
    from voxcloud.report.tables import write_tables

    write_tables(results_folder)
    links = {h for h in re.findall(r'<a href="([^"#]+)"', page) if not h.startswith("https://doi.org/")}
    assert len(links) >= 5
    assert [h for h in links if not (results_folder / h).exists()] == []


def test_write_report__first_page_counts_the_searches(page: str) -> None:
    text = text_of(page)
    assert "Interim analysis, look 2: 24 participants" in text
    assert re.search(r"4 searches run", text)
    assert re.search(r"0\.20 false positives to expect at most", text)
    assert "3 clusters with p(FWE) ≤ .05 in their search" in text
    assert "2 of them also with p(family) ≤ .05 over all searches" in text


def test_write_report__names_who_was_left_out_and_why(page: str) -> None:
    first = page[: page.index('<section id="people">')]
    assert "variance 538 times that of the complete design" in text_of(first)


def test_write_report__content_security_policy_and_contents_are_there(page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy.group(1)
    inside = page[page.index("<nav") : page.index("</nav>")]
    sections = set(re.findall(r'<section id="(\w+)">', page))
    assert sections == {a for a in re.findall(r'href="#(\w+)"', inside) if a in sections}


def test_write_report__every_slice_names_its_side(page: str) -> None:
    figures = re.findall(r"<svg[^>]*aria-label=\"Slices through[^>]*>.*?</svg>", page, re.DOTALL)
    assert len(figures) == 1
    planes = len(re.findall("<image", figures[0]))
    assert planes == 9
    assert len(re.findall(r">L</text>", figures[0])) == len(re.findall(r">R</text>", figures[0])) == 6
    assert len(re.findall(r"x = [^<]* hemisphere</text>|x = 0, midline</text>", figures[0])) == 3


def test_write_report__not_a_number_is_nowhere(page: str) -> None:
    assert not re.search(r"\bnan\b|\binf\b", text_of(page), re.IGNORECASE)
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawn) > 5
    assert not any(re.search(r"\bnan\b|\binf\b", re.sub(r"data:[^\"]*", "", d)) for d in drawn)


def test_write_report__flags_the_cluster_that_one_person_makes(page: str) -> None:
    assert len(re.findall(r'<tr class="flagged"><td class="n">\d', page)) == 1
    assert "1 of 3 significant clusters" in text_of(page)


def test_write_report__labels_selected_statistics_as_descriptive(page: str) -> None:
    text = text_of(page)
    assert "It is descriptive, because the voxels were selected on the same data" in text
    assert "t held out" in text


def test_write_report__prints_p_as_journals_do_and_keeps_the_digits(page: str) -> None:
    assert re.search(r'<td class="n" data-value="0\.032" title="0\.032">\.032</td>', page)
    assert "&lt; .001</td>" in page
    assert "0.000" not in text_of(page)


def test_write_report__failed_units_have_their_command(page: str) -> None:
    assert "voxcloud unit run fit-block/training/R1map_label-GM/00003 --output out" in page


def test_write_report__same_results_give_the_same_page(results_folder: Path, page: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(results_folder, copy)
    write_report(copy)
    assert (copy / "report.html").read_text(encoding="utf-8") == page
    assert sorted(p.name for p in copy.glob(".*")) == []


def test_write_report__f_contrasts_need_no_people(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, maps=["R1map"], labels=["GM"], significant=1)
    path = next(
        p for p in tmp_path.glob("results/model-training/R1map*linear*.json") if 'significant": true' in p.read_text()
    )
    tree = json.loads(path.read_text())
    tree["searches"] = tree["searches"][:1]
    for cluster in tree["searches"][0]["clusters"]:
        for key in ("between", "influence", "values", "trajectories", "groups"):
            del cluster[key]
    path.write_text(json.dumps({**tree, "kind": "F", "test": "age ; tiv", "maps": {"F": tree["maps"]["t"]}}))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "peak F" in page
    assert "<code>age ; tiv (F)</code>" in page
    assert "voxel-wise peak z" not in page


def test_write_report__simulation_is_compared_with_its_truth(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, maps=["R1map"], labels=["GM"], significant=0)
    row = {
        "outcome": "found",
        "name": "motor",
        "map": "R1map",
        "label": "GM",
        "model": "training",
        "coefficient": "linear",
        "contrast": "c",
        "direction": "greater",
        "expected": True,
        "expected_t": 6.1,
        "volume": "whole mask",
        "p_fwe": 1e-4,
        "size_voxels": 80,
        "peak_t": 6.6,
        "peak_z": 5.2,
        "peak_mm": [30.0, -18.0, 54.0],
        "distance_mm": 2.0,
    }
    false = {**row, "outcome": "false", "name": "", "expected": False, "expected_t": None, "distance_mm": None}
    path = tmp_path / "results" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "truth": [row, false]}))
    text = text_of(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "1 of 1 planted changes that the designs can show were found, none missed" in text
    assert "1 significant cluster lies where nothing is planted" in text


def test_write_report__warnings_that_differ_in_numbers_are_one(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, maps=["R1map"], labels=["GM"], significant=0)
    for number, path in enumerate(sorted(tmp_path.glob("results/model-training/R1map*.json"))):
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "warnings": [f"{12 + number} error degrees of freedom"]})
        )
    text = text_of(write_report(tmp_path).read_text(encoding="utf-8"))
    assert len(re.findall("error degrees of freedom \\(| error degrees of freedom", text)) == 1
    assert "all 2 comparisons, with their own numbers" in text


ATTACK = "<script>alert('group')</script>"


def test_write_report__escapes_what_comes_from_tables(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, groups=["untrained", ATTACK], maps=["R1map"], labels=["GM"], significant=1, each=6)
    path = tmp_path / "results" / "behaviour.json"
    tree = json.loads(path.read_text())
    tree["scores"] = {'"><img src=x onerror=alert(1)>': next(iter(tree["scores"].values()))}
    path.write_text(json.dumps(tree))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "alert(&#39;group&#39;)" in page or "alert(&#x27;group&#x27;)" in page
    assert "<script" not in re.sub(r'srcdoc="[^"]*"', "", page)
    assert "<img src=x" not in page
    assert outline(page).open == []


def test_write_report__zero_findings_say_so(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, maps=["R1map"], labels=["GM"], significant=0)
    text = text_of(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "No cluster reached significance in any of the 4 searches" in text
    assert "no evidence of absence" in text


def test_write_report__empty_folder_gives_a_page(tmp_path: Path) -> None:
    text = text_of(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "There are no results" in text


def test_write_report__locked_has_another_stamp(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, maps=["R1map"], labels=["GM"], significant=0, analysis="locked")
    text = text_of(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "Locked analysis" in text
    assert "Interim analysis" not in text


def test_write_report__unweighted_fit_is_stamped(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, maps=["R1map"], labels=["GM"], significant=0)
    path = tmp_path / "results" / "model-training" / "design.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "accepted_unequal_variance": True}))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert re.search(r'class="running">[^<]*plain unweighted fit accepted', page)
    assert "1 of 1 model" in text_of(page)


def test_write_report__half_a_result_file_is_named(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    write_fake(tmp_path, maps=["R1map"], labels=["GM"], significant=0)
    path = next(tmp_path.glob("results/model-training/R1map*.json"))
    path.write_text(path.read_text()[:100])
    with pytest.raises(CorruptStoreError, match=re.escape(path.name)):
        write_report(tmp_path)


@pytest.mark.slow
def test_write_report__stays_small_with_many_findings(write_fake: Callable[..., Path], tmp_path: Path) -> None:
    maps = ["R1map", "MTsat", "R2starmap", "FA", "MD", "AD", "RD", "volume"]
    write_fake(tmp_path, maps=maps, contrasts=[f"contrast{k}" for k in range(5)], significant=160, each=24)
    path = write_report(tmp_path)
    assert path.stat().st_size < 15e6
    assert "are shown without figures" in text_of(path.read_text(encoding="utf-8"))


# What chromium asks for by itself; a page that loaded a font or a script from elsewhere would name another host.
BROWSERS_OWN = {
    "accounts.google.com",
    "clients2.google.com",
    "update.googleapis.com",
    "content-autofill.googleapis.com",
    "optimizationguide-pa.googleapis.com",
}


def hosts_asked(browser: str, page: Path, folder: Path) -> set[str]:
    """Open a page without any network and return the hosts that were asked for."""
    folder.mkdir()
    log = folder / "net.json"
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-extensions",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            "--virtual-time-budget=8000",
            f"--screenshot={folder / 'page.png'}",
            "--window-size=1300,9000",
            page.as_uri(),
        ],
        check=True,
        timeout=120,
        capture_output=True,
    )
    assert (folder / "page.png").stat().st_size > 1000
    urls = re.findall(r'"url":"((?:https?|wss?|ftp):[^"]*)"', log.read_text(encoding="utf-8", errors="replace"))
    return {url.split("/")[2] for url in urls} - BROWSERS_OWN


@pytest.mark.service
def test_write_report__browser_asks_for_nothing(page: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("chromium is not installed; make services installs it")
    opened, control = tmp_path / "open.html", tmp_path / "control.html"
    opened.write_text(page.replace('<details class="screen">', '<details class="screen" open>'), encoding="utf-8")
    control.write_text('<img src="http://elsewhere.example/x.png">')
    assert hosts_asked(browser, control, tmp_path / "control") == {"elsewhere.example"}
    assert hosts_asked(browser, opened, tmp_path / "page") == set()


def test_page__bayes_factors_stand_beside_the_largest_possible(page: str) -> None:
    assert "BF01 = 0.0123 (at most 3.08)" in page
    assert "even identical groups give no more" in page
