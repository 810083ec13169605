"""Region names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxcloud.bids.atlas import load_atlas
from voxcloud.errors import ImageError

LAS = np.array([[-2.0, 0, 0, 4.0], [0, 2.0, 0, -4.0], [0, 0, 2.0, -4.0], [0, 0, 0, 1]])


def xml(folder: Path, names: list[str], kind: str = "Probabilistic", start: str = "", image: str = "/A/A-prob") -> Path:
    """Write a label XML."""
    labels = "".join(f'<label index="{k}" x="1" y="2" z="3">{name}</label>' for k, name in enumerate(names))
    text = (
        f'<?xml version="1.0" encoding="ISO-8859-1"?>{start}<atlas version="1.0"><header><type>{kind}</type>'
        f"<images><imagefile>{image}</imagefile></images></header><data>{labels}</data></atlas>"
    )
    path = folder / "A.xml"
    path.write_text(text, encoding="latin-1")
    return path


def image(folder: Path, data: np.ndarray, name: str = "A-prob.nii.gz") -> Path:
    """Write the atlas image, stored with x from right to left as FSL stores its own."""
    made = nib.Nifti1Image(data, LAS)
    made.set_sform(LAS, 4)
    made.set_qform(LAS, 4)
    nib.save(made, folder / name)
    return folder / name


@pytest.fixture
def probabilities() -> np.ndarray:
    """Return a region at the right, one at the left, and a wide faint one."""
    data = np.zeros((5, 5, 5, 3), np.uint8)
    data[0, 2, 2, 0] = 60  # x = +4 mm: right
    data[4, 2, 2, 1] = 70  # x = -4 mm: left
    data[:, 2, 2, 2] = [50, 50, 4, 6, 70]
    return data


NAMES = ["Cortex R", "Cortex L", "Fibres &amp; more"]


def test_region_at__is_the_most_probable_region_on_the_right_side(tmp_path: Path, probabilities: np.ndarray) -> None:
    atlas = load_atlas(image(tmp_path, probabilities), xml(tmp_path, NAMES))
    assert atlas.region_at((4, 0, 0)) == "Cortex R"
    assert atlas.region_at([-4.9, 0.4, -0.9]) == "Cortex L"  # the voxel it lies in; the first of two equal ones
    assert atlas.region_at((2, 0, 0)) == "Fibres & more"
    assert atlas.region_at((-2, 0, 0)) == "Fibres & more"
    assert atlas.region_at((0, 0, 0)) == ""  # 4 %
    assert atlas.region_at((0, 2, 0)) == ""
    assert atlas.region_at((400, 0, 0)) == ""


def test_region_shares__count_each_place_once(tmp_path: Path, probabilities: np.ndarray) -> None:
    atlas = load_atlas(image(tmp_path, probabilities), xml(tmp_path, NAMES))
    shares = atlas.region_shares([[4, 0, 0], [2, 0, 0], [-2, 0, 0], [0, 0, 0]])
    assert [(s.region, s.share) for s in shares] == [("Fibres & more", 0.5), ("", 0.25), ("Cortex R", 0.25)]


def test_load_atlas__fractions_count_as_percent(tmp_path: Path, probabilities: np.ndarray) -> None:
    atlas = load_atlas(image(tmp_path, (probabilities / 100).astype(np.float32)), xml(tmp_path, NAMES))
    assert atlas.region_at((4, 0, 0)) == "Cortex R"
    assert atlas.probability.max() == 70


@pytest.mark.parametrize(("kind", "first"), [("Label", 0), ("Probabilistic", 1)])
def test_load_atlas__reads_label_images_as_fsl_counts_them(tmp_path: Path, kind: str, first: int) -> None:
    data = np.zeros((5, 5, 5), np.int16)
    data[0, 2, 2], data[4, 2, 2] = 1 + first, 2 + first
    atlas = load_atlas(image(tmp_path, data), xml(tmp_path, ["none", "Right", "Left"], kind))
    assert [atlas.region_at((x, 0, 0)) for x in (4, 0, -4)] == ["Right", "", "Left"]


def test_load_atlas__finds_the_image_that_the_xml_names(tmp_path: Path, probabilities: np.ndarray) -> None:
    (tmp_path / "A").mkdir()
    image(tmp_path / "A", probabilities)
    assert load_atlas(None, xml(tmp_path, NAMES)).region_at((4, 0, 0)) == "Cortex R"


def test_load_atlas__looks_for_images_below_its_own_folder_only(tmp_path: Path, probabilities: np.ndarray) -> None:
    image(tmp_path, probabilities)
    (tmp_path / "inner").mkdir()
    with pytest.raises(ImageError, match="expected one of its images beside it"):
        load_atlas(None, xml(tmp_path / "inner", NAMES, image="/../A-prob"))


def test_load_atlas__reads_a_replaced_image_again(tmp_path: Path, probabilities: np.ndarray) -> None:
    labels = xml(tmp_path, NAMES)
    load_atlas(image(tmp_path, probabilities), labels)
    assert load_atlas(image(tmp_path, probabilities[::-1]), labels).region_at((4, 0, 0)) == "Cortex L"


BOMB = '<!DOCTYPE atlas [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
FILE = '<!DOCTYPE atlas [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("start", [BOMB, FILE, '<!DOCTYPE atlas SYSTEM "http://example.org/a.dtd">'])
def test_load_atlas__refuses_declarations(tmp_path: Path, probabilities: np.ndarray, start: str) -> None:
    with pytest.raises(ImageError, match="found a document type declaration"):
        load_atlas(image(tmp_path, probabilities), xml(tmp_path, ["&a;", "x", "y"], start=start))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_load_atlas__refuses_declarations_in_other_encodings(
    tmp_path: Path, probabilities: np.ndarray, encoding: str
) -> None:
    path = tmp_path / "A.xml"
    path.write_bytes(f"{BOMB}<atlas><data><label index='0'>&b;</label></data></atlas>".encode(encoding))
    with pytest.raises(ImageError, match="found a document type declaration"):
        load_atlas(image(tmp_path, probabilities), path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<atlas><data><label index='0'>a</label>", "expected a label XML in FSL's layout"),
        (b"<atlas></atlas>", "found 0 labels"),
        (b"<a><label>no index</label></a>", "in FSL's layout"),
        (b"<a><label index='one'>x</label></a>", "in FSL's layout"),
        (b"<a><label index='0'>x</label><label index='0'>y</label></a>", "found 2 labels"),
        (b"<a><label index='7'>x</label></a>", "names 1 regions up to index 7, expected those of .*found 3"),
    ],
)
def test_load_atlas__refuses_other_xml(tmp_path: Path, probabilities: np.ndarray, content: bytes, words: str) -> None:
    (tmp_path / "A.xml").write_bytes(content)
    with pytest.raises(ImageError, match=words):
        load_atlas(image(tmp_path, probabilities), tmp_path / "A.xml")


def test_load_atlas__names_a_missing_file(tmp_path: Path, probabilities: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"gone\.xml: expected a label XML"):
        load_atlas(image(tmp_path, probabilities), tmp_path / "gone.xml")
    with pytest.raises(ImageError, match=r"gone\.nii: expected a NIfTI file, found no file"):
        load_atlas(tmp_path / "gone.nii", xml(tmp_path, NAMES))


def test_region_at__knows_left_and_right_of_real_atlases(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("atlases")
    tracts = load_atlas(folder / "JHU-ICBM-tracts-prob-1mm.nii.gz", folder / "JHU-tracts.xml")
    assert tracts.region_at((24, -22, 20)) == "Corticospinal tract R"
    assert tracts.region_at((-24, -22, 20)) == "Corticospinal tract L"
    cerebellum = load_atlas(None, folder / "Cerebellum_MNIfnirt.xml")
    assert cerebellum.region_at((-40, -60, -40)).startswith("Left Crus")
    assert cerebellum.region_at((40, -60, -40)).startswith("Right Crus")


@pytest.mark.slow
def test_region_at__knows_the_corticospinal_tract_of_juelich_which_lists_right_first(
    shared_data: Callable[[str], Path],
) -> None:
    folder = shared_data("atlases")
    atlas = load_atlas(None, folder / "Juelich.xml")
    assert len(atlas.names) == 121
    assert atlas.region_at((26, -22, 26)) == "WM Corticospinal tract R"
    assert atlas.region_at((-26, -22, 26)) == "WM Corticospinal tract L"
