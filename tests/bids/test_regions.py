"""Search volumes from atlases: sides, patterns, resampling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from voxcloud.bids.regions import choose_labels, read_regions, search_volumes, side_of_name
from voxcloud.config.regions import Regions
from voxcloud.errors import ImageError, MaskError

# 2 mm, stored from right to left as FSL stores its atlases: voxel i lies at x = 10 - 2 i.
SHAPE = (11, 9, 7)
LAS = np.array([[-2.0, 0, 0, 10.0], [0, 2.0, 0, -8.0], [0, 0, 2.0, -6.0], [0, 0, 0, 1]])
RAS = np.array([[2.0, 0, 0, -10.0], [0, 2.0, 0, -8.0], [0, 0, 2.0, -6.0], [0, 0, 0, 1]])
NAMES = ["WM Tract R", "WM Tract L", "Deep", "Left Lobe", "Right Lobe"]  # the right first, as Juelich lists its tracts


def write_atlas(
    folder: Path, data: np.ndarray, names: list[str] | None = None, name: str = "Test", kind: str = "Probabilistic"
) -> None:
    labels = "".join(f'<label index="{k}" x="1" y="2" z="3">{text}</label>' for k, text in enumerate(names or NAMES))
    (folder / f"{name}.xml").write_text(
        f"<atlas><header><type>{kind}</type><images><imagefile>/{name}/{name}-prob-2mm</imagefile></images></header>"
        f"<data>{labels}</data></atlas>"
    )
    (folder / name).mkdir(exist_ok=True)
    made = nib.Nifti1Image(data, LAS)
    made.set_sform(LAS, 4)
    made.set_qform(LAS, 4)
    nib.save(made, folder / name / f"{name}-prob-2mm.nii.gz")


def probabilities() -> np.ndarray:
    """Return percent on the grid of the atlas; index 10 - x / 2 along the first axis."""
    data = np.zeros((*SHAPE, 5), np.uint8)
    data[1:3, 2:4, 3, 0] = 60  # x = 8, 6: right
    data[8:10, 2:4, 3, 1] = 70  # x = -6, -8: left
    data[3:8, 5, 3, 2] = 80  # x = 4 ... -4: both sides
    data[3, 5, 3, 2] = 20  # x = 4: below the threshold
    data[4:10, 7, 3, 3] = 50  # left lobe: x = 2 ... -8, over the midline
    data[1:6, 7, 3, 4] = 40  # right lobe: x = 8 ... 0
    return data


def spec(**changes: Any) -> Regions:
    regions = {
        "tract": {"atlas": "Test", "labels": ["WM tract ?"], "tissue": "WM"},
        "deep": {"atlas": "Test", "labels": ["Deep"], "tissue": "GM"},
        "lobe": {"atlas": "Test", "labels": ["* Lobe"], "tissue": "GM"},
    }
    return Regions.model_validate({"folder": "x", "volumes": regions, **changes})


def on_template(
    folder: Path, asked: Regions, affine: np.ndarray = RAS, shape: tuple[int, int, int] = SHAPE, **tissue: Any
) -> Any:
    ones = np.ones(shape, np.float32)
    maps = {"gm": ones, "wm": ones, **tissue}
    return search_volumes(asked, read_regions(asked, folder), shape, affine, maps["gm"], maps["wm"])


def xs(volume: Any, y: int, affine: np.ndarray = RAS) -> list[float]:
    """Return x in mm of the voxels of a volume in one row."""
    return sorted((affine[0, 0] * np.flatnonzero(volume.mask[:, y, 3]) + affine[0, 3]).tolist())


# ---- names


@pytest.mark.parametrize(
    ("label", "side"),
    [
        ("WM Corticospinal tract R", "R"),
        ("Corticospinal tract L", "L"),
        ("GM Superior parietal lobule 5L R", "R"),
        ("GM Superior parietal lobule 5L L", "L"),
        ("Left Crus I", "L"),
        ("Right-Thalamus-Proper", "R"),
        ("7Networks_LH_Vis_1", "L"),
        ("ctx-rh-precentral", "R"),
        ("Precentral_L", "L"),
        ("Cerebrum.Right.Frontal", "R"),
        ("Vermis VI", ""),
        ("Area L of the cortex", ""),
        ("Bright spot", ""),
        ("Lingual gyrus", ""),
        ("Broca's area", ""),
        ("", ""),
    ],
)
def test_side_of_name__reads_words(label: str, side: str) -> None:
    assert side_of_name(label) == side


def test_side_of_name__refuses_both() -> None:
    with pytest.raises(ValueError, match="both left and right"):
        side_of_name("Left lobe R")


def test_choose_labels__in_the_order_of_the_atlas() -> None:
    names = ["GM BA4a L", "GM BA4a R", "GM BA4p L", "WM [x] tract", "GM BA4a"]
    assert choose_labels(["gm  ba4P l", "GM BA4a *"], names, "f") == ["GM BA4a L", "GM BA4a R", "GM BA4p L"]
    assert choose_labels(["WM [x] tract"], names, "f") == ["WM [x] tract"]  # a name before a pattern
    assert choose_labels(["GM BA4a", "GM BA4a"], names, "f") == ["GM BA4a"]
    assert choose_labels(["*[!LR]"], names, "f") == ["WM [x] tract", "GM BA4a"]


def test_choose_labels__names_the_nearest_of_everything_that_fits_nothing() -> None:
    names = ["GM Primary motor cortex BA4a L", "GM Primary motor cortex BA4a R", "WM Fornix", "Callosal body"]
    with pytest.raises(ImageError) as caught:
        choose_labels(["GM Primary motor cortex BA4a", "Forniks*", "WM*"], names, "regions.motor (J.xml)")
    first, second = caught.value.problems
    assert first.startswith(
        "regions.motor (J.xml): expected a label that fits 'GM Primary motor cortex BA4a', found none"
    )
    assert "Nearest labels: GM Primary motor cortex BA4a L; GM Primary motor cortex BA4a R;" in first
    assert "Nearest labels: WM Fornix;" in second


# ---- reading


def test_read_regions__sides_are_those_of_the_names_and_of_the_image(tmp_path: Path) -> None:
    write_atlas(tmp_path, probabilities())
    found = read_regions(spec(), tmp_path)
    assert [(r.name, r.label, r.hemisphere, r.tissues) for r in found] == [
        ("tract", "WM Tract R", "R", ("WM",)),
        ("tract", "WM Tract L", "L", ("WM",)),
        ("deep", "Deep", "", ("GM",)),
        ("lobe", "Left Lobe", "L", ("GM",)),
        ("lobe", "Right Lobe", "R", ("GM",)),
    ]
    tract = found[0]
    assert tract.mask.sum() == 4
    places = np.argwhere(tract.mask) @ tract.affine[:3, :3].T + tract.affine[:3, 3]
    np.testing.assert_array_equal(places.mean(axis=0), [7, -3, 0])
    assert tract.probability.shape == (4, 4, 3)  # cut out, with a margin of one voxel


def test_read_regions__finds_atlases_below_fsldir(tmp_path: Path) -> None:
    (tmp_path / "data" / "atlases").mkdir(parents=True)
    write_atlas(tmp_path / "data" / "atlases", probabilities())
    assert len(read_regions(spec(), tmp_path)) == 5
    other = {"deep": {"atlas": "test", "labels": ["deep"], "tissue": "GM"}}
    assert [r.label for r in read_regions(spec(volumes=other), tmp_path)] == ["Deep"]


@pytest.mark.parametrize("swapped", ["image", "names"])
def test_read_regions__refuses_a_side_that_the_image_contradicts(tmp_path: Path, swapped: str) -> None:
    names = ["WM Tract L", "WM Tract R", *NAMES[2:]] if swapped == "names" else NAMES
    write_atlas(tmp_path, probabilities()[::-1] if swapped == "image" else probabilities(), names)
    side, sign = ("left", "<") if swapped == "names" else ("right", ">")
    with pytest.raises(ImageError) as caught:
        read_regions(spec(), tmp_path)
    text = str(caught.value)
    label = "WM Tract L" if swapped == "names" else "WM Tract R"
    assert f"Test.xml: label '{label}': expected the {side} side (x {sign} 0) as its name says, found 0 % of it" in text
    assert "Test-prob-2mm.nii.gz" in text


def test_read_regions__refuses_a_side_for_both_hemispheres(tmp_path: Path) -> None:
    write_atlas(tmp_path, probabilities(), [*NAMES[:2], "Deep L", *NAMES[3:]])
    asked = spec(volumes={"deep": {"atlas": "Test", "labels": ["Deep*"], "tissue": "GM"}})
    with pytest.raises(ImageError, match=r"label 'Deep L': expected the left side .* found 62 % of it there"):
        read_regions(asked, tmp_path)
    write_atlas(tmp_path, probabilities(), [*NAMES[:2], "Left deep R", *NAMES[3:]])
    with pytest.raises(ImageError, match="expected a name that says one side or none, found both left and right"):
        read_regions(spec(volumes={"deep": {"atlas": "Test", "labels": ["* deep *"], "tissue": "GM"}}), tmp_path)


def test_read_regions__tells_every_wrong_name_at_once(tmp_path: Path) -> None:
    write_atlas(tmp_path, probabilities())
    wrong = {
        "a": {"atlas": "Tset", "labels": ["*"], "tissue": "GM"},
        "b": {"atlas": "Test", "labels": ["Dep"], "tissue": "GM"},
        "c": {"atlas": "Test", "labels": ["Lobe R"], "tissue": "GM"},
    }
    with pytest.raises(ImageError) as caught:
        read_regions(spec(volumes=wrong), tmp_path)
    first, second, third = caught.value.problems
    assert "expected the atlas Tset.xml, found Test. Did you mean 'Test'?" in first
    assert "regions.b" in second
    assert "Nearest labels: Deep" in second
    assert "regions.c" in third


def test_read_regions__names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="gone: expected a folder with atlases"):
        read_regions(spec(), tmp_path / "gone")
    with pytest.raises(ImageError, match=r"expected the atlas Test\.xml, found no XML"):
        read_regions(spec(), tmp_path)
    write_atlas(tmp_path, probabilities()[..., :4])
    with pytest.raises(ImageError, match=r"names regions up to index 4, expected those of .*, found 4 in it"):
        read_regions(spec(), tmp_path)


# ---- volumes


def test_search_volumes__are_four_by_hemisphere_and_tissue(tmp_path: Path) -> None:
    write_atlas(tmp_path, probabilities())
    found = on_template(tmp_path, spec())
    assert list(found) == ["GM_L", "GM_R", "WM_L", "WM_R"]
    assert [(v.tissue, v.hemisphere) for v in found.values()] == [("GM", "L"), ("GM", "R"), ("WM", "L"), ("WM", "R")]
    assert xs(found["WM_R"], 2) == [6, 8]
    assert xs(found["WM_L"], 2) == [-8, -6]
    # Without a side: divided at x = 0, which is in neither; x = 4 is below the threshold.
    assert xs(found["GM_L"], 5) == [-4, -2]
    assert xs(found["GM_R"], 5) == [2]
    # Both lobes claim x = 0 and 2: the first is in neither, the second lies right.
    assert xs(found["GM_L"], 7) == [-8, -6, -4, -2]
    assert xs(found["GM_R"], 7) == [2, 4, 6, 8]
    assert found["GM_L"].mask.sum() == 6
    assert found["GM_L"].voxels_by_label == {"deep: Test: Deep": 2, "lobe: Test: Left Lobe": 4}


def test_search_volumes__a_label_with_a_side_keeps_what_lies_over_the_midline(tmp_path: Path) -> None:
    data = probabilities()
    data[..., 4] = 0
    data[1, 7, 3, 4] = 90
    write_atlas(tmp_path, data)
    assert xs(on_template(tmp_path, spec())["GM_L"], 7) == [-8, -6, -4, -2, 0, 2]


@pytest.mark.parametrize("flipped", [False, True])
def test_search_volumes__do_not_depend_on_how_images_are_stored(tmp_path: Path, flipped: bool) -> None:
    write_atlas(tmp_path, probabilities())
    expected = on_template(tmp_path, spec())
    found = on_template(tmp_path, spec(), LAS if flipped else RAS)
    for name, volume in found.items():
        np.testing.assert_array_equal(volume.mask[::-1] if flipped else volume.mask, expected[name].mask)


def test_search_volumes__single_regions_and_both_hemispheres(tmp_path: Path) -> None:
    write_atlas(tmp_path, probabilities())
    single = on_template(tmp_path, spec(combine="single"))
    assert list(single) == ["tract_WM_L", "tract_WM_R", "deep_GM_L", "deep_GM_R", "lobe_GM_L", "lobe_GM_R"]
    assert single["lobe_GM_L"].mask.sum() == 4
    together = on_template(tmp_path, spec(hemispheres=False))
    assert list(together) == ["GM", "WM"]
    assert xs(together["GM"], 5) == [-4, -2, 0, 2]  # the midline is in
    assert xs(together["GM"], 7) == [-8, -6, -4, -2, 0, 2, 4, 6, 8]
    assert list(on_template(tmp_path, spec(hemispheres=False, combine="single"))) == ["tract_WM", "deep_GM", "lobe_GM"]


def test_search_volumes__lie_in_their_tissue(tmp_path: Path) -> None:
    write_atlas(tmp_path, probabilities())
    gm = np.where(np.arange(SHAPE[0]) < 3, 0.2, 0.1)[:, None, None] * np.ones(SHAPE)
    gm[9:] = 0.3
    lobe = {"atlas": "Test", "labels": ["* Lobe"], "tissue": "GM"}
    found = on_template(tmp_path, spec(volumes={"lobe": lobe}), gm=gm, wm=np.zeros(SHAPE))
    assert xs(found["GM_L"], 7) == [-8, -6]
    both = {"lobe": {**lobe, "tissue": ["GM", "WM"]}}
    found = on_template(tmp_path, spec(volumes=both), gm=gm, wm=1 - gm)
    assert xs(found["WM_L"], 7) == [-8, -6, -4, -2]
    assert xs(found["GM_L"], 7) == [-8, -6]
    found = on_template(tmp_path, spec(volumes=both, min_tissue={"GM": 0}), gm=gm)
    assert xs(found["GM_L"], 7) == [-8, -6, -4, -2]


def test_search_volumes__names_every_region_without_voxels(tmp_path: Path) -> None:
    write_atlas(tmp_path, probabilities())
    gm = np.ones(SHAPE)
    gm[:5] = 0
    with pytest.raises(MaskError) as caught:
        on_template(tmp_path, spec(), gm=gm, wm=np.zeros(SHAPE))
    first, second, third = caught.value.problems
    assert "regions.volumes.tract: expected voxels of WM in hemisphere R (template at least 0.6, a label" in first
    assert "tract: expected voxels of WM in hemisphere L" in second
    assert "deep: expected voxels of GM in hemisphere L" in third
    with pytest.raises(MaskError, match=r"tract: expected voxels of WM .* a label at least 71 %"):
        on_template(tmp_path, spec(threshold=71))


def test_search_volumes__refuse_tissue_on_another_grid(tmp_path: Path) -> None:
    write_atlas(tmp_path, probabilities())
    with pytest.raises(MaskError, match=r"WM of the template: expected shape \(11, 9, 7\), found \(3, 3, 3\)"):
        on_template(tmp_path, spec(), wm=np.ones((3, 3, 3)))


@pytest.mark.parametrize("turn", [0.0, 0.2])
def test_search_volumes__interpolate_probabilities_and_cut_them_then(tmp_path: Path, turn: float) -> None:
    # Probabilities that are linear in place are interpolated without error: where they pass 25 % is known.
    i, j, k = np.indices(SHAPE)
    percent = 3.0 * (10 - 2 * i) + 2.0 * (2 * j - 8) + 1.0 * (2 * k - 6) + 17.5
    write_atlas(tmp_path, np.clip(percent, 0, 100)[..., None].repeat(2, 3).astype(np.float32), ["Ramp", "More"])
    asked = spec(hemispheres=False, volumes={"ramp": {"atlas": "Test", "labels": ["Ramp"], "tissue": "GM"}})
    affine, shape = np.diag([0.7, 0.9, 1.1, 1.0]), (14, 11, 8)
    affine[:2, :2] = [[0.7 * np.cos(turn), -0.9 * np.sin(turn)], [0.7 * np.sin(turn), 0.9 * np.cos(turn)]]
    affine[:3, 3] = -2, -4, -4
    x, y, z = np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3, None, None, None]
    inside = (abs(x) <= 10) & (abs(y) <= 8) & (abs(z) <= 6)
    assert inside.all()
    expected = 3 * x + 2 * y + z + 17.5 >= 25
    assert 0.2 < expected.mean() < 0.8
    np.testing.assert_array_equal(on_template(tmp_path, asked, affine, shape)["GM"].mask, expected)


def test_search_volumes__the_threshold_itself_is_in(tmp_path: Path) -> None:
    data = probabilities()
    data[1:3, 2, 3, 0], data[1:3, 3, 3, 0] = 25, 24
    write_atlas(tmp_path, data)
    found = on_template(tmp_path, spec())["WM_R"]
    assert xs(found, 2) == [6, 8]
    assert xs(found, 3) == []


def test_search_volumes__fractions_count_as_percent(tmp_path: Path) -> None:
    write_atlas(tmp_path, probabilities())
    expected = on_template(tmp_path, spec())
    write_atlas(tmp_path, (probabilities() / 100).astype(np.float32))
    for name, volume in on_template(tmp_path, spec()).items():
        np.testing.assert_array_equal(volume.mask, expected[name].mask)


@pytest.mark.parametrize(("kind", "first"), [("Label", 0), ("Probabilistic", 1)])
def test_search_volumes__labels_without_probabilities_fill_half_a_voxel(tmp_path: Path, kind: str, first: int) -> None:
    data = np.zeros(SHAPE, np.int16)
    data[1:4, 2:4, 3] = 1 + first  # x = 8, 6, 4
    data[7:10, 2:4, 3] = 2 + first
    write_atlas(tmp_path, data, ["none", "Right", "Left"], kind=kind)
    asked = spec(volumes={"lobe": {"atlas": "Test", "labels": ["*t"], "tissue": "GM"}})
    finer = np.diag([0.5, 2, 2, 1.0])
    finer[:3, 3] = RAS[:3, 3]
    found = on_template(tmp_path, asked, finer, (41, 9, 7))
    assert xs(found["GM_R"], 2, finer) == np.arange(3, 9.1, 0.5).tolist()
    assert xs(found["GM_L"], 2, finer) == np.arange(-9, -2.9, 0.5).tolist()
    # A label that the image lacks gives nothing and is told.
    asked = spec(volumes={"lobe": {"atlas": "Test", "labels": ["*"], "tissue": "GM"}})
    assert on_template(tmp_path, asked)["GM_L"].voxels_by_label["lobe: Test: none"] == 0


def test_search_volumes__outside_the_template_is_nowhere(tmp_path: Path) -> None:
    write_atlas(tmp_path, probabilities())
    far = RAS.copy()
    far[2, 3] = 100
    with pytest.raises(MaskError, match="found none"):
        on_template(tmp_path, spec(), far)


# ---- atlases of FSL

FIVE = {
    "sensorimotor": {
        "atlas": "Juelich",
        "labels": ["GM Primary motor cortex BA4*", "GM Primary somatosensory cortex BA*", "GM Premotor cortex BA6 *"],
        "tissue": "GM",
    },
    "corticospinal": {"atlas": "Juelich", "labels": ["WM Corticospinal tract *"], "tissue": "WM"},
    "corticospinal_brainstem": {"atlas": "JHU-tracts", "labels": ["Corticospinal tract *"], "tissue": "WM"},
    "thalamus": {"atlas": "Thalamus", "labels": ["*"], "tissue": "GM"},
    "cerebellum": {"atlas": "Cerebellum_MNIfnirt", "labels": ["*"], "tissue": "GM"},
    "hippocampus": {"atlas": "Juelich", "labels": ["GM Hippocampus *"], "tissue": "GM"},
}


@pytest.mark.parametrize("stored", ["RAS", "LAS"])
def test_search_volumes__five_regions_of_fsls_atlases(shared_data: Callable[[str], Path], stored: str) -> None:
    folder = shared_data("atlases")
    asked = spec(volumes=FIVE)
    regions = read_regions(asked, folder)
    sides = {(r.atlas, r.label): r.hemisphere for r in regions}
    assert sides["Juelich", "WM Corticospinal tract R"] == "R"  # 97: the right first
    assert sides["Juelich", "WM Corticospinal tract L"] == "L"
    assert sides["JHU-tracts", "Corticospinal tract L"] == "L"  # 2: the left first
    assert sides["Cerebellum_MNIfnirt", "Vermis VI"] == ""
    shape, affine = (65, 77, 63), np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = -96, -132, -78
    if stored == "LAS":
        affine[0] = -3, 0, 0, 96
    ones = np.ones(shape, np.float32)
    found = search_volumes(asked, regions, shape, affine, ones, ones)
    assert list(found) == ["GM_L", "GM_R", "WM_L", "WM_R"]
    x = (affine[0, 0] * np.arange(shape[0]) + affine[0, 3])[:, None, None] * ones
    for name, volume in found.items():
        own = x <= 3 if name.endswith("L") else x >= -3  # the cerebellum of the atlas has its midline right of 0
        assert (volume.mask & ~own).sum() == 0
        assert 500 < volume.mask.sum() < 15_000
        assert min(volume.mask.sum(), np.flip(volume.mask, 0).sum()) > 0
    for tissue in ("GM", "WM"):
        left, right = (found[f"{tissue}_{side}"].mask for side in "LR")
        assert not (left & right).any()
        assert left.sum() == pytest.approx(right.sum(), rel=0.1)

    def holds(name: str, place: tuple[float, float, float]) -> bool:
        index = np.rint(np.linalg.inv(affine) @ [*place, 1])[:3].astype(int)
        return bool(found[name].mask[tuple(index)])

    for sign, side, other in ((-1, "L", "R"), (1, "R", "L")):
        for tissue, place in (
            ("GM", (sign * 39, -24, 57)),  # hand area
            ("GM", (sign * 12, -18, 9)),  # thalamus
            ("GM", (sign * 27, -60, -33)),  # cerebellum
            ("GM", (sign * 27, -21, -15)),  # hippocampus
            ("WM", (sign * 24, -21, 21)),  # corticospinal tract
        ):
            assert holds(f"{tissue}_{side}", place), (side, place)
            assert not holds(f"{tissue}_{other}", place), (side, place)


def test_read_regions__a_mirrored_atlas_is_refused(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shared_data("atlases")
    image = nib.load(folder / "JHU-ICBM-tracts-prob-1mm.nii.gz")
    header = image.header.copy()
    mirrored = image.affine * np.array([-1, 1, 1, 1])[:, None]
    small = nib.Nifti1Image(np.asarray(image.dataobj[..., :4]), mirrored, header)
    small.set_sform(mirrored, 4)
    small.set_qform(mirrored, 4)
    nib.save(small, tmp_path / "JHU-ICBM-tracts-prob-1mm.nii")
    text = (folder / "JHU-tracts.xml").read_text(encoding="latin-1").split("\n")
    kept = [line for line in text if "<label" not in line or any(f'index="{k}"' in line for k in range(4))]
    (tmp_path / "JHU-tracts.xml").write_text("\n".join(kept), encoding="latin-1")
    asked = spec(volumes={"tract": FIVE["corticospinal_brainstem"]})
    with pytest.raises(ImageError, match=r"label 'Corticospinal tract L': expected the left side .* left and right of"):
        read_regions(asked, tmp_path)
