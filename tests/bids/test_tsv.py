"""Tab-separated tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxcloud.bids.tsv import read_table
from voxcloud.errors import TableError


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write a table; `|` stands for a tab."""
    path = folder / "participants.tsv"
    path.write_bytes(text.replace("|", "\t").encode(encoding))
    return path


def test_read_table__labels_lose_their_prefix_and_keep_their_zeros(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "participant_id|session_id\nsub-01|ses-007\n2|1\n"))
    assert found["participant_id"].tolist() == ["01", "2"]
    assert found["session_id"].tolist() == ["007", "1"]


def test_read_table__numbers_are_float64_and_missing_is_nan(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "participant_id|age|score\n01|45|-1.5\n02|n/a|+2e-3\n03||.5\n"))
    assert found["age"].dtype == found["score"].dtype == np.float64
    assert found["age"].tolist()[0] == 45.0
    assert np.isnan(found["age"][1:]).all()
    assert found["score"].tolist() == [-1.5, 0.002, 0.5]


@pytest.mark.parametrize("cell", ["=cmd|x", "+patients", "-none", "@home", "=1+1"])
def test_read_table__what_looks_like_a_spreadsheet_formula_is_text(tmp_path: Path, cell: str) -> None:
    cell = cell.replace("|", "!")
    assert read_table(table(tmp_path, f"participant_id|note\n01|{cell}\n"))["note"].tolist() == [cell]


def test_read_table__text_is_str_and_missing_text_is_none(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "participant_id|sex|hand\n01|M|left\n02|n/a|NA\n"))
    assert found["sex"].tolist() == ["M", None]
    assert found["hand"].tolist() == ["left", None]


@pytest.mark.parametrize("column", ["group", "site", "scanner", "sex"])
def test_read_table__codes_of_known_categories_are_no_numbers(tmp_path: Path, column: str) -> None:
    assert read_table(table(tmp_path, f"participant_id|{column}\n01|1\n02|2\n"))[column].tolist() == ["1", "2"]


def test_read_table__a_column_with_levels_in_the_data_dictionary_is_text(tmp_path: Path) -> None:
    (tmp_path / "participants.json").write_text('{"arm": {"Levels": {"1": "drug", "2": "placebo"}}, "age": {}}')
    found = read_table(table(tmp_path, "participant_id|arm|age\n01|1|30\n02|2|40\n"))
    assert found["arm"].tolist() == ["1", "2"]
    assert found["age"].tolist() == [30.0, 40.0]


def test_read_table__a_damaged_data_dictionary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "participants.json").write_text('{"arm": ')
    with pytest.raises(TableError, match=r"participants\.json: expected a BIDS data dictionary"):
        read_table(table(tmp_path, "participant_id|arm\n01|1\n"))


def test_read_table__codes_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    assert read_table(table(tmp_path, "participant_id|code\n01|007\n02|12\n"))["code"].tolist() == ["007", "12"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_read_table__tolerates_what_spreadsheets_write(tmp_path: Path, encoding: str, end: str) -> None:
    text = end.join(["participant_id|group||", "01|Zürich||", '02|"a ""b"""||', "", ""])
    found = read_table(table(tmp_path, text, encoding))
    assert found["group"].tolist() == ["Zürich", 'a "b"']
    assert list(found.columns) == ["participant_id", "group"]


@pytest.mark.parametrize(("separator", "words"), [(",", "commas"), (";", "semicolons")])
def test_read_table__refuses_another_separator_in_words(tmp_path: Path, separator: str, words: str) -> None:
    with pytest.raises(TableError, match=f"expected columns separated by tabs, found {words}"):
        read_table(table(tmp_path, separator.join(["participant_id", "age\n01", "45\n"])))


def test_read_table__names_the_nearest_column(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"column participant_id, found participantid, age\. Did you mean 'p"):
        read_table(table(tmp_path, "participantid|age\n01|45\n"), ("participant_id",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found an empty file"),
        ("participant_id|age\n", "expected rows below the header"),
        ("participant_id|age|age\n01|1|2\n", "found age twice"),
        ("participant_id||age\n01|1|2\n", "expected a name for each column, found none for column 2"),
        ("participant_id|age|tiv\n01|45\n", r"line 2: expected 3 cells \(participant_id, age, tiv\), found 2"),
        ("participant_id|age\n01|45|7\n", "line 2: expected 2 cells"),
        ("participant_id|age\n0_1|45\n", r"line 2: participant_id expects letters and digits.*found '0_1'"),
        ("participant_id|age\n../x|45\n", r"found '\.\./x'"),
        ("participant_id|age\nn/a|45\n", "participant_id expects a label, found nothing"),
        ("participant_id|age\n01|45\n02|4 5\n03|46\n", r"line 3 \(sub-02\): age expects a number or n/a, found '4 5'"),
        ("participant_id|age\n01|45,5\n02|44,1\n", "age expects a number with a point, not a comma"),
        ("participant_id|age\n01|45\n02|inf\n03|46\n", "found 'inf'"),
        ("participant_id|age\0\n01|45\n", "found a binary file"),
    ],
)
def test_read_table__refuses_bad_tables_by_name(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(TableError, match=words):
        read_table(table(tmp_path, text), ("participant_id",))


def test_read_table__refuses_a_workbook(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(TableError, match="found a binary file"):
        read_table(tmp_path / "p.tsv")


def test_read_table__refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="expected a table, found no file"):
        read_table(tmp_path / "gone.tsv")
    with pytest.raises(TableError, match="expected a table, found: Is a directory"):
        read_table(tmp_path)


CELL = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1)


@given(st.lists(CELL, min_size=1, max_size=6))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_table__any_text_comes_back_or_is_refused(tmp_path: Path, cells: list[str]) -> None:
    path = tmp_path / "any.tsv"
    path.write_text("participant_id\tnote\n" + "".join(f"{k}\t{c}\n" for k, c in enumerate(cells)), encoding="utf-8")
    found = read_table(path, text=("note",))["note"].tolist()
    for cell, value in zip(cells, found, strict=True):
        quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
        assert value == cell or quoted or (value is None and cell.lower() in ("n/a", "na", "nan"))
