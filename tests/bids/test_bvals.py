"""b-values and b-vectors: what is read, what is noted, what is refused, and which file applies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voxcloud.bids.bvals import AMBIGUOUS, TURNED, find_table, read_bvals, read_bvecs, read_gradients
from voxcloud.errors import BidsError

VECTORS = "0 1 0 0\n0 0 1 0\n0 0 0 1\n"


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    ["0 1000 1000 2000", "0\t1000 1e3   2000 \n\n\n", "\ufeff0 1000 1000.0 2000\r\n", "  0 1000 1000 2000\r"],
)
def test_read_bvals__bears_any_white_space(tmp_path: Path, text: str) -> None:
    values, notes = read_bvals(written(tmp_path / "a.bval", text))
    assert values.tolist() == [0, 1000, 1000, 2000]
    assert notes == ()


def test_read_bvals__notes_columns_and_commas(tmp_path: Path) -> None:
    values, notes = read_bvals(written(tmp_path / "a.bval", "0,\n1000,\n2000\n"))
    assert values.tolist() == [0, 1000, 2000]
    assert len(notes) == 2
    assert "found commas" in notes[0]
    assert "found one column" in notes[1]


def test_read_bvecs__keeps_rows_and_unknown_numbers(tmp_path: Path) -> None:
    vectors, notes = read_bvecs(written(tmp_path / "a.bvec", "nan 1 0 0\nNaN 0 1 0\nnan 0 0 1"))
    assert vectors.shape == (3, 4)
    assert np.isnan(vectors[:, 0]).all()
    assert np.array_equal(vectors[:, 1:], np.eye(3))
    assert notes == ()


def test_read_bvecs__turns_one_vector_per_row_and_says_so(tmp_path: Path) -> None:
    vectors, notes = read_bvecs(written(tmp_path / "a.bvec", "0 0 0\n1 0 0\n0 .6 .8\n0 0 1\n"))
    assert vectors[:, 2].tolist() == [0, 0.6, 0.8]
    assert len(notes) == 1
    assert TURNED in notes[0]


def test_read_bvecs__takes_three_by_three_as_rows_and_says_so(tmp_path: Path) -> None:
    vectors, notes = read_bvecs(written(tmp_path / "a.bvec", "1 2 3\n4 5 6\n7 8 9"))
    assert vectors[:, 0].tolist() == [1, 4, 7]
    assert AMBIGUOUS in notes[0]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "empty file"),
        (" \n\n", "empty file"),
        ("0 1000\n0 1000 1000", "rows of equal length, found 2, 3 numbers"),
        ("0 1000 x12", "line 1: expected b-values, found 'x12', which is no number"),
        ("0 1_000", "line 1: expected b-values, found '1_000'"),
        (VECTORS, "in one row, found 3 rows of 4. These look like b-vectors."),
    ],
)
def test_read_bvals__refuses(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path / "a.bval", text)
    with pytest.raises(BidsError, match=r"a\.bval") as caught:
        read_bvals(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["0 1000 1000 1000", "1 2 3 4\n5 6 7 8"])
def test_read_bvecs__refuses_other_than_three_rows(tmp_path: Path, text: str) -> None:
    with pytest.raises(BidsError, match="in three rows"):
        read_bvecs(written(tmp_path / "a.bvec", text))


def test_read_bvecs__refuses_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.bvec").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BidsError, match="expected b-vectors as text"):
        read_bvecs(tmp_path / "a.bvec")


def test_read_bvecs__names_a_pointer_without_content(tmp_path: Path) -> None:
    (tmp_path / "a.bvec").symlink_to(".git/annex/objects/x")
    with pytest.raises(BidsError, match=r"git annex get '.*a\.bvec'"):
        read_bvecs(tmp_path / "a.bvec")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return written(tmp_path / "sub-01" / "ses-1" / "dwi" / "sub-01_ses-1_dir-AP_run-2_dwi.nii.gz", "")


def test_read_gradients__takes_each_file_from_the_nearest_folder(tmp_path: Path, image: Path) -> None:
    written(tmp_path / "dwi.bval", "0 1 1 1")
    written(tmp_path / "dwi.bvec", VECTORS)
    written(tmp_path / "dir-PA_dwi.bval", "0 2 2 2")
    written(tmp_path / "sub-01" / "sub-01_dwi.bval", "0 1000 1000 1000")
    written(tmp_path / "sub-01" / "ses-1" / "sub-01_ses-1_dir-PA_dwi.bval", "0 3 3 3")
    written(tmp_path / "sub-01" / "ses-1" / "sub-01_ses-1_sbref.bval", "0 4 4 4")
    found = read_gradients(tmp_path, image)
    assert found.bvals.tolist() == [0, 1000, 1000, 1000]
    assert found.bval_path == tmp_path / "sub-01" / "sub-01_dwi.bval"
    assert found.bvec_path == tmp_path / "dwi.bvec"
    assert np.array_equal(found.bvecs[:, 1:], np.eye(3))
    written(image.parent / "sub-01_ses-1_dir-AP_run-2_dwi.bval", "0 2500 2500 2500")
    assert read_gradients(tmp_path, image).bvals.tolist() == [0, 2500, 2500, 2500]


def test_read_gradients__passes_on_the_notes_of_both_files(tmp_path: Path, image: Path) -> None:
    written(tmp_path / "dwi.bval", "0\n1000\n1000\n1000\n")
    written(tmp_path / "dwi.bvec", "0 0 0\n1 0 0\n0 1 0\n0 0 1\n")
    assert len(read_gradients(tmp_path, image).notes) == 2


def test_find_table__refuses_two_of_one_folder(tmp_path: Path, image: Path) -> None:
    written(tmp_path / "dwi.bval", "0 1 1 1")
    written(tmp_path / "dir-AP_dwi.bval", "0 1 1 1")
    with pytest.raises(BidsError, match=r"at most one \.bval file.*found dir-AP_dwi.bval and dwi.bval in \."):
        find_table(tmp_path, image, ".bval")


def test_find_table__knows_what_belongs_to_another_image(tmp_path: Path, image: Path) -> None:
    own = written(image.parent / "sub-01_ses-1_dir-AP_run-2_dwi.bval", "0 1 1 1")
    written(image.parent / "sub-01_ses-1_dir-AP_dwi.bval", "0 1 1 1")
    with pytest.raises(BidsError, match="at most one"):
        find_table(tmp_path, image, ".bval")
    written(image.parent / "sub-01_ses-1_dir-AP_dwi.nii.gz", "")
    assert find_table(tmp_path, image, ".bval") == own


def test_find_table__looks_no_higher_than_the_root(tmp_path: Path) -> None:
    root = tmp_path / "study"
    image = written(root / "sub-01" / "dwi" / "sub-01_dwi.nii.gz", "")
    written(tmp_path / "dwi.bval", "0 1 1 1")
    with pytest.raises(BidsError, match=r"sub-01_dwi.nii.gz: expected a file sub-01_dwi\.bval beside it"):
        find_table(root, image, ".bval")
    with pytest.raises(BidsError, match="found it elsewhere"):
        read_gradients(root / "sub-02", image)
