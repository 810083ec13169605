"""Simulated studies on disk: complete, in the right units, the same every time, and with the truth that they state."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from threadpoolctl import threadpool_limits

from voxcloud.bids.atlas import load_atlas
from voxcloud.config.load import load_study
from voxcloud.errors import PlanError, StudyFileError
from voxcloud.schema import check_units
from voxcloud.testing import PlantedEffect, SimulatedStudy, simulate_study, tiny_study
from voxcloud.testing.design import PolynomialTime
from voxcloud.testing.fields import blurred_sphere, distance_mm
from voxcloud.testing.tissue import MAPS, base_image


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read(file: Path, volume: int | None) -> np.ndarray:
    image = nib.load(file)
    return np.asarray(image.dataobj if volume is None else image.dataobj[..., volume], dtype=float)


def stack(study: SimulatedStudy, map_name: str, label: str) -> dict[tuple[str, str], np.ndarray]:
    inside = study.anatomy.mask
    return {(p, s): read(file, volume)[inside] for p, s, file, volume in study.image_paths(map_name, label)}


def coefficients(study: SimulatedStudy, map_name: str, label: str, term: str) -> dict[str, np.ndarray]:
    """Fit every participant with at least three visits, the last one among them, by direct least squares."""
    images = stack(study, map_name, label)
    time = PolynomialTime(study.cohort.reference_days)
    terms = ["intercept", "linear", "quadratic"]
    fitted = {}
    for pid, visits in study.sessions.groupby("participant_id"):
        kept = visits[[(pid, s) in images for s in visits["session_id"]]]
        if len(kept) < 3 or "day84" not in set(kept["session_id"]):
            continue
        x = np.column_stack([time.term(t, kept["day"].to_numpy(float)) for t in terms])
        y = np.stack([images[pid, s] for s in kept["session_id"]])
        fitted[pid] = (np.linalg.pinv(x) @ y)[terms.index(term)]
    return fitted


def test_simulate_study__images_table_lists_every_image_and_every_file_exists(coarse_study: SimulatedStudy):
    table = pd.read_csv(coarse_study.folder / "images.tsv", sep="\t", dtype=str, keep_default_na=False)
    visits = len(coarse_study.sessions)
    per_map = table.groupby(["map", "label"]).size()
    assert not table.duplicated(["participant_id", "session_id", "map", "label"]).any()
    assert set(table["map"]) == {*MAPS, "probseg"}
    for (name, _), n in per_map.items():
        assert n == visits - (2 if name in ("FA", "MD", "AD", "RD") else 0)
    assert all((coarse_study.folder / path).is_file() for path in table["path"].unique())
    listed = set(table["path"]) | {"mask.nii.gz"}
    found = {str(p.relative_to(coarse_study.folder)) for p in coarse_study.folder.rglob("*.nii*")}
    assert {p for p in found if not p.startswith(("rois/", "truth/"))} == listed


def test_simulate_study__mixes_3d_gz_and_4d_plain_files(coarse_study: SimulatedStudy):
    table = coarse_study.images
    whole = table[table["volume"] == ""]
    parts = table[table["volume"] != ""]
    assert whole["path"].str.endswith(".nii.gz").all()
    assert parts["path"].str.endswith(".nii").all()
    assert set(parts["map"]) == {"RD", "volume"}
    for path, rows in parts.groupby("path"):
        assert nib.load(coarse_study.folder / path).shape[3] == len(rows)


@pytest.mark.parametrize("map_name", [*MAPS, "probseg"])
@pytest.mark.parametrize("label", ["GM", "WM"])
def test_simulate_study__values_are_in_the_units_of_the_registry(
    coarse_study: SimulatedStudy, map_name: str, label: str
):
    for pid, session, file, volume in coarse_study.image_paths(map_name, label)[:6]:
        values = read(file, volume)[coarse_study.anatomy.mask]
        values = values[np.isfinite(values)]
        low, middle, high = np.percentile(values, [1, 50, 99])
        check_units(map_name, f"sub-{pid}_ses-{session}", middle, low, high)


def test_simulate_study__tissues_have_their_published_values(coarse_study: SimulatedStudy):
    for map_name, grey, white in (("R1map", 0.61, 1.04), ("MTsat", 0.85, 1.70), ("R2starmap", 15.8, 21.0)):
        for label, value in (("GM", grey), ("WM", white)):
            images = np.stack(list(stack(coarse_study, map_name, label).values())[:50])
            core = coarse_study.anatomy.tissue(label)[coarse_study.anatomy.mask] > 0.7
            assert np.isclose(np.median(images[:, core]), value, rtol=0.06)


def test_simulate_study__diffusion_maps_describe_one_tensor(coarse_study: SimulatedStudy):
    maps = {m: stack(coarse_study, m, "WM") for m in ("FA", "MD", "AD", "RD")}
    assert {frozenset(m) for m in maps.values()} == {frozenset(maps["FA"])}
    for key in list(maps["FA"])[:10]:
        fa, md, ad, rd = (maps[m][key] for m in ("FA", "MD", "AD", "RD"))
        inside = np.isfinite(fa)
        assert inside.any()
        assert np.allclose(md[inside], (ad + 2 * rd)[inside] / 3, rtol=1e-5)
        assert np.allclose(fa[inside], ((ad - rd) / np.sqrt(ad**2 + 2 * rd**2))[inside], atol=1e-5)


def test_simulate_study__planted_group_changes_are_recovered_by_least_squares(coarse_study: SimulatedStudy):
    groups = dict(zip(coarse_study.participants["participant_id"], coarse_study.participants["group"], strict=True))
    inside = coarse_study.anatomy.mask
    checked = 0
    for entry in coarse_study.truth["planted"]:
        if entry["effect"] != "group" or entry["coefficient"] == "intercept" or entry["induced_by"]:
            continue
        fitted = coefficients(coarse_study, entry["map"], entry["label"], entry["coefficient"])
        region = read(coarse_study.folder / entry["mask"], None)[inside] > 0
        region &= coarse_study.anatomy.tissue(entry["label"])[inside] > 0.2
        means = {pid: float(np.nanmean(v[region])) for pid, v in fitted.items()}
        plus = [v for pid, v in means.items() if entry["multipliers"].get(pid, 0.0) > 0]
        minus = [v for pid, v in means.items() if entry["multipliers"].get(pid, 0.0) < 0]
        rest = minus or [v for pid, v in means.items() if groups[pid] == "con_none"]
        effect = (np.mean(plus) - np.mean(rest)) * (1 if entry["sign"] == "positive" else -1) / abs(entry["amplitude"])
        # The mean over a sphere with soft edges lies below the amplitude at its centre; volume scales with tissue.
        assert 0.25 < effect < 1.4, entry["name"]
        checked += 1
    assert checked == 11


def test_simulate_study__coefficients_follow_improvement_where_planted(coarse_study: SimulatedStudy):
    for entry in coarse_study.truth["planted"]:
        if not entry["effect"].startswith("score"):
            continue
        fitted = coefficients(coarse_study, entry["map"], entry["label"], entry["coefficient"])
        region = read(coarse_study.folder / entry["mask"], None)[coarse_study.anatomy.mask] > 0
        gain = coarse_study.cohort.score("percent_correct")
        people = [pid for pid in entry["multipliers"] if pid in fitted]
        r = np.corrcoef([gain[p] for p in people], [np.nanmean(fitted[p][region]) for p in people])[0, 1]
        assert len(people) == 16
        assert r * (1 if entry["sign"] == "positive" else -1) > 0.7, entry["name"]


def test_simulate_study__null_mask_keeps_away_from_everything_planted(coarse_study: SimulatedStudy):
    null = read(coarse_study.folder / coarse_study.truth["null_mask"], None) > 0
    assert null.sum() > 0.2 * coarse_study.anatomy.mask.sum()
    for entry in coarse_study.truth["planted"]:
        away = distance_mm(coarse_study.anatomy.shape, coarse_study.anatomy.affine, entry["centre_mm"])
        assert away[null].min() > entry["reach_mm"]


def test_simulate_study__stack_without_planted_changes_is_null(coarse_study: SimulatedStudy):
    groups = dict(zip(coarse_study.participants["participant_id"], coarse_study.participants["group"], strict=True))
    assert {"map": "R2starmap", "label": "GM"} in coarse_study.truth["null_stacks"]
    fitted = coefficients(coarse_study, "R2starmap", "GM", "linear")
    values = np.stack(list(fitted.values()))
    patients = np.array([groups[p].startswith("sci") for p in fitted])
    difference = values[patients].mean(0) - values[~patients].mean(0)
    spread = np.sqrt(
        values[patients].var(0, ddof=1) / patients.sum() + values[~patients].var(0, ddof=1) / (~patients).sum()
    )
    t = (difference / spread)[np.isfinite(difference)]
    assert np.isclose(np.mean(np.abs(t) > 2.02), 0.05, atol=0.05)
    assert np.abs(t).max() < 6


def test_simulate_study__atlas_names_the_planted_regions_with_their_side(coarse_study: SimulatedStudy):
    study = yaml.safe_load(coarse_study.study_file.read_text())
    atlas = load_atlas(*(coarse_study.folder / study["atlas"][k] for k in ("image", "labels")))
    for entry in coarse_study.truth["planted"]:
        region = atlas.region_at(entry["centre_mm"])
        assert region.startswith("left " if entry["centre_mm"][0] < 0 else "right "), entry["name"]
    assert atlas.region_at((36, -26, 54)) == "right sensorimotor cortex"
    assert atlas.region_at((0, -26, 54)) == ""


def test_simulate_study__search_volumes_hold_the_planted_regions_on_their_side(coarse_study: SimulatedStudy):
    for entry in coarse_study.truth["planted"]:
        side = "right" if entry["centre_mm"][0] > 0 else "left"
        other = "left" if side == "right" else "right"
        region = read(coarse_study.folder / entry["mask"], None) > 0
        same = read(coarse_study.folder / "rois" / f"{entry['label']}_{side}.nii.gz", None) > 0
        opposite = read(coarse_study.folder / "rois" / f"{entry['label']}_{other}.nii.gz", None) > 0
        assert (region & same).sum() > (region & opposite).sum(), entry["name"]
        assert not (same & opposite).any()


def test_simulate_study__study_file_is_valid_and_names_existing_files(coarse_study: SimulatedStudy):
    loaded = load_study(coarse_study.study_file)
    assert [m.name for m in loaded.study.models] == ["training", "arm_leg", "learning", "trained", "baseline"]
    for path in (loaded.study.images, loaded.study.participants, loaded.study.sessions, loaded.study.mask):
        assert Path(loaded.resolve(path)).is_file()
    for volume in loaded.study.search_volumes.values():
        assert Path(loaded.resolve(volume.path)).is_file()


def test_simulate_study__grid_follows_the_resolution(tmp_path: Path):
    seen = []
    study = simulate_study(
        tmp_path / "s",
        resolution_mm=6.0,
        maps=["R1map"],
        group_sizes={"sci_arm": 3, "con_none": 3},
        progress=lambda done, total: seen.append((done, total)),
    )
    header = nib.load(study.folder / "mask.nii.gz")
    assert np.allclose(header.header.get_zooms(), 6.0)
    assert np.array_equal(header.affine, study.anatomy.affine)
    # A brain of about 1.9 litres, whatever the voxel size.
    assert 1.7e6 < study.anatomy.mask.sum() * 6.0**3 < 2.1e6
    assert seen[-1] == (len(study.images), len(study.images))


def test_simulate_study__map_does_not_depend_on_the_other_maps(tmp_path: Path, coarse_study: SimulatedStudy):
    study = simulate_study(tmp_path / "s", resolution_mm=8.0, maps=["MTsat", "AD"])
    mine = contents(study.folder)
    for name in [n for n in mine if n.startswith("sub-")]:
        assert mine[name] == (coarse_study.folder / name).read_bytes()


def test_simulate_study__leaves_out_models_without_people(tmp_path: Path):
    sizes = {"sci_arm": 3, "con_none": 3}
    study = simulate_study(tmp_path / "s", resolution_mm=12.0, maps=["R1map"], group_sizes=sizes)
    names = [m.name for m in load_study(study.study_file).study.models]
    assert names == ["training", "baseline"]
    with pytest.raises(StudyFileError, match="more people"):
        simulate_study(tmp_path / "t", maps=["R1map"], group_sizes={"con_none": 3})
    assert not (tmp_path / "t").exists()


def test_simulate_study__refuses_a_map_that_it_does_not_draw(tmp_path: Path):
    with pytest.raises(StudyFileError, match="PDmap"):
        simulate_study(tmp_path / "s", maps=["R1map", "PDmap"])


@pytest.mark.parametrize("wrong", [{"resolution_mm": 0.004}, {"fwhm_mm": 0.0}])
def test_simulate_study__refuses_an_impossible_length_and_makes_no_folder(tmp_path: Path, wrong: dict[str, float]):
    with pytest.raises(PlanError, match=r"mm is expected .* found 0"):
        simulate_study(tmp_path / "s", **wrong)
    assert not (tmp_path / "s").exists()


def test_tiny_study__same_seed_gives_the_same_bytes_for_any_number_of_threads(tmp_path: Path):
    options = {"maps": ("R1map", "FA", "RD", "volume"), "labels": ("GM", "WM")}
    with threadpool_limits(1):
        tiny_study(tmp_path / "a" / "study", **options)
    with threadpool_limits(2):
        tiny_study(tmp_path / "b" / "study", **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_tiny_study__other_seed_gives_other_images(tmp_path: Path, tiny: SimulatedStudy):
    other = tiny_study(tmp_path / "s", seed=1)
    assert other.participants["age"].tolist() != tiny.participants["age"].tolist()
    path = tiny.images["path"][0]
    assert (other.folder / path).read_bytes() != (tiny.folder / path).read_bytes()


def test_tiny_study__planted_change_is_seen_by_least_squares(tiny: SimulatedStudy):
    fitted = coefficients(tiny, "R1map", "GM", "linear")
    region = read(tiny.folder / "truth" / "sustained_GM.nii.gz", None)[tiny.anatomy.mask] > 0
    groups = dict(zip(tiny.participants["participant_id"], tiny.participants["group"], strict=True))
    means = {g: [np.nanmean(v[region]) for p, v in fitted.items() if groups[p] == g] for g in ("sci_arm", "con_none")}
    assert min(means["sci_arm"]) > max(means["con_none"])


@pytest.mark.parametrize("term", ["linear", "quadratic"])
def test_tiny_study__planted_change_is_exactly_the_stated_one(tmp_path: Path, term: str):
    centre, radius, size = (14.0, 0.0, 8.0), 9.0, 3.0
    effect = PlantedEffect("e", ("R1map",), "GM", term, centre, radius, size, {"sci_arm": 1.0})
    with_change = tiny_study(tmp_path / "a", effects=[effect], jitter_days=True)
    without = tiny_study(tmp_path / "b", effects=[], jitter_days=True)
    anatomy = without.anatomy
    entry = with_change.truth["planted"][0]
    profile = blurred_sphere(anatomy.shape, anatomy.affine, centre, radius, with_change.truth["fwhm_mm"])
    expected = (entry["relative_amplitude"] * profile * base_image(anatomy, "R1map", "GM"))[anatomy.mask]
    distance = distance_mm(anatomy.shape, anatomy.affine, centre)[anatomy.mask]
    before = coefficients(without, "R1map", "GM", term)
    for pid, fitted in coefficients(with_change, "R1map", "GM", term).items():
        change = fitted - before[pid]
        inside = np.isfinite(change)
        planted = expected if pid in entry["multipliers"] else np.zeros_like(expected)
        assert np.allclose(change[inside], planted[inside], atol=1e-5)
        assert (change[inside & (distance > entry["reach_mm"])] == 0).all()


def test_tiny_study__one_person_can_make_a_change(tmp_path: Path):
    effect = PlantedEffect("one", ("R1map",), "GM", "linear", (14.0, 0.0, 8.0), 9.0, 20.0, people={"03": 1.0})
    study = tiny_study(tmp_path / "s", effects=[effect])
    fitted = coefficients(study, "R1map", "GM", "linear")
    region = read(study.folder / "truth" / "one.nii.gz", None)[study.anatomy.mask] > 0
    means = {pid: float(np.nanmean(v[region])) for pid, v in fitted.items()}
    rest = [v for pid, v in means.items() if pid != "03"]
    assert means["03"] > np.mean(rest) + 8 * np.std(rest)


def test_tiny_study__without_a_tissue_asks_for_no_tissue_masks(tmp_path: Path):
    study = tiny_study(tmp_path / "s", labels=("",), four_d=("R1map",))
    tree = yaml.safe_load(study.study_file.read_text())
    assert "masks" not in tree
    assert set(study.images["map"]) == {"R1map"}
    load_study(study.study_file)
    for values in stack(study, "R1map", "").values():
        assert np.isfinite(values).all()


def test_tiny_study__missing_visits_are_missing(tmp_path: Path):
    study = tiny_study(tmp_path / "s", missing_visits={("sci_arm", 1): (84.0,)})
    assert len(study.sessions) == len(study.images[study.images["map"] == "R1map"]) == 49


def test_tiny_study__changes_replace_keys_of_the_study_file(tmp_path: Path):
    study = tiny_study(tmp_path / "s", changes={"on_bad_image": "exclude"})
    assert load_study(study.study_file).study.on_bad_image == "exclude"


def test_tiny_study__refuses_a_folder_with_files(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StudyFileError, match="new or empty folder"):
        tiny_study(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_tiny_study__truth_file_is_what_the_function_returns(tiny: SimulatedStudy):
    assert json.loads((tiny.folder / "truth" / "truth.json").read_text()) == tiny.truth
