"""Participants, sessions and images, joined by label."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from voxcloud.bids.tables import Cohort, build_cohort, read_images, read_participants, read_sessions
from voxcloud.errors import TableError


def write(folder: Path, name: str, text: str) -> Path:
    """Write a table; `|` stands for a tab."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("|", "\t"))
    return path


PARTICIPANTS = "participant_id|group|age\nsub-01|patients|45\nsub-02|untrained|52.5\nsub-10|untrained|n/a\n"
SESSIONS = (
    "participant_id|session_id|day\nsub-01|ses-1|0\nsub-01|ses-2|28\nsub-02|ses-1|0\nsub-02|ses-2|27\nsub-10|ses-1|0\n"
)
IMAGES = (
    "participant_id|session_id|map|label|path|volume\n"
    "sub-01|ses-1|R1map|GM|a.nii.gz|n/a\n"
    "sub-01|ses-2|R1map|GM|b.nii.gz|n/a\n"
    "sub-02|ses-1|R1map|GM|four.nii|0\n"
    "sub-02|ses-2|R1map|GM|four.nii|1\n"
    "sub-01|ses-1|FA|n/a|maps/fa.nii.gz|n/a\n"
)


def cohort(
    folder: Path, *, participants: str = PARTICIPANTS, sessions: str | None = SESSIONS, images: str = IMAGES
) -> Cohort:
    """Read and join three tables."""
    return build_cohort(
        read_images(write(folder, "images.tsv", images)),
        read_participants(write(folder, "participants.tsv", participants)),
        None if sessions is None else read_sessions(write(folder, "sessions.tsv", sessions)),
    )


def test_read_participants__sorted_one_row_each(tmp_path: Path) -> None:
    found = read_participants(write(tmp_path, "p.tsv", "participant_id|age\n10|1\n02|2\n"))
    assert found["participant_id"].tolist() == ["02", "10"]


def test_read_participants__refuses_duplicates_by_name(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"found two or more for sub-01\."):
        read_participants(write(tmp_path, "p.tsv", "participant_id|age\nsub-01|1\n01|2\n02|3\n"))


def test_read_sessions__keeps_days(tmp_path: Path) -> None:
    found = read_sessions(write(tmp_path, "s.tsv", "participant_id|session_id|day\n01|b|-3.5\n01|a|0\n"))
    assert found[["session_id", "day"]].values.tolist() == [["a", 0.0], ["b", -3.5]]


def test_read_sessions__refuses_a_day_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"line 2 \(sub-01_ses-1\): day expects a number or n/a, found 'day0'"):
        read_sessions(write(tmp_path, "s.tsv", "participant_id|session_id|day\n01|1|day0\n01|2|day28\n"))


def test_read_sessions__refuses_duplicates_by_name(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="sub-01_ses-1"):
        read_sessions(write(tmp_path, "s.tsv", "participant_id|session_id|day\n01|1|0\n01|1|7\n"))


def test_read_sessions__needs_day_or_dates(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"expected a column day .* or acq_time, found .*Did you mean 'days'"):
        read_sessions(write(tmp_path, "s.tsv", "participant_id|session_id|days\n01|1|0\n"))


DATES = (
    "participant_id|session_id|acq_time\n"
    "01|base|1901-03-01T18:00:00\n01|later|1901-03-29T08:00:00\n"
    "02|later|2024-05-15\n02|base|2024-05-01T10:00:00Z\n"
    "03|base|1850-01-01\n03|pre|1849-12-30\n"
)


def test_read_sessions__counts_calendar_days_from_each_participants_own_baseline(tmp_path: Path) -> None:
    found = read_sessions(write(tmp_path, "s.tsv", DATES))
    days = {(p, s): d for p, s, d in found[["participant_id", "session_id", "day"]].itertuples(index=False)}
    assert days == {
        ("01", "base"): 0.0, ("01", "later"): 28.0, ("02", "base"): 0.0, ("02", "later"): 14.0,
        ("03", "base"): 0.0, ("03", "pre"): -2.0,
    }  # fmt: skip


def test_read_sessions__with_dates_only_a_participant_without_baseline_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"ses-base, of every participant, found none for sub-04\..*cannot stand for"):
        read_sessions(write(tmp_path, "s.tsv", DATES + "04|later|2020-01-01\n"))


def test_read_sessions__with_dates_only_an_unclear_baseline_is_refused(tmp_path: Path) -> None:
    text = "participant_id|session_id|acq_time\n01|a|2020-01-01\n01|b|2020-02-01\n02|b|2020-01-01\n02|a|2020-02-01\n"
    path = write(tmp_path, "s.tsv", text)
    with pytest.raises(TableError, match=r"found ses-a \(1 participants\) and ses-b \(1 participants\)"):
        read_sessions(path)
    assert read_sessions(path, baseline="a")["day"].tolist() == [0.0, 31.0, 0.0, -31.0]


def test_read_sessions__refuses_what_is_no_date(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"sub-01_ses-1: acq_time expects a date as YYYY-MM-DD .*'1\.3\.2020'"):
        read_sessions(write(tmp_path, "s.tsv", "participant_id|session_id|acq_time\n01|1|1.3.2020\n"))


def test_read_sessions__reads_the_tables_of_a_bids_folder(tmp_path: Path) -> None:
    write(tmp_path, "sub-01/sub-01_sessions.tsv", "session_id|day\nses-1|0\nses-2|7\n")
    write(tmp_path, "sub-02/sub-02_sessions.tsv", "session_id|day\nses-1|0\n")
    assert read_sessions(tmp_path)["participant_id"].tolist() == ["01", "01", "02"]


def test_read_images__returns_absolute_paths_and_integer_volumes(tmp_path: Path) -> None:
    found = read_images(write(tmp_path, "images.tsv", IMAGES))
    assert found["map"].tolist() == ["FA", "R1map", "R1map", "R1map", "R1map"]
    assert found["path"].tolist()[0] == str(tmp_path / "maps" / "fa.nii.gz")
    assert found["volume"].tolist()[3:] == [0, 1]
    assert found["volume"].isna().tolist() == [True, True, True, False, False]
    assert found["label"].tolist() == ["", "GM", "GM", "GM", "GM"]


def test_read_images__needs_neither_session_nor_label_nor_volume(tmp_path: Path) -> None:
    found = read_images(write(tmp_path, "images.tsv", "participant_id|map|path\n01|effect|/x/a.nii\n"))
    assert found[["session_id", "map", "label", "path"]].values.tolist() == [["", "effect", "", "/x/a.nii"]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("01|1|R1|GM|a.nii|", r"sub-01_ses-1: map 'R1' is not known\. Did you mean 'R1map'\?"),
        ("01|1|R1map|gm|a.nii|", r"label expects GM, WM or nothing, found 'gm'\. Did you mean 'GM'\?"),
        ("01|1|R1map|GM|n/a|", "path expects the file of the R1map, found nothing"),
        ("01|1|R1map|GM|a.nii|1.5", "volume expects a whole number from 0, found 1.5"),
        ("01|1|R1map|GM|a.nii|-1", "volume expects a whole number from 0, found -1"),
        ("01|1|R1map|GM|a.nii|first", "volume expects a number or n/a, found 'first'"),
        ("01|2|R1map|GM|a.nii|\n01|2|R1map|GM|b.nii|", r"sub-01_ses-2: expected one R1map GM, found .*a\.nii and"),
        ("01|2|R1map|GM|a.nii|\n01|3|R1map|GM|a.nii|", "one participant and session, found sub-01_ses-2 and sub-01_"),
        ("01|2|FA||a.nii|4\n02|2|FA||./a.nii|4", r"a\.nii, volume 4: expected the image of one"),
        (
            "01|2|FA||sub-01_space-MNI152NLin6Asym_x.nii|\n02|2|FA||sub-02_space-MNI152NLin2009cAsym_x.nii|",
            "FA: expected one template space, found MNI152NLin2009cAsym",
        ),
    ],
)  # fmt: skip
def test_read_images__refuses_bad_rows_by_name(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(TableError, match=words):
        read_images(write(tmp_path, "images.tsv", f"participant_id|session_id|map|label|path|volume\n{row}\n"))


def test_read_images__one_whole_brain_map_may_serve_both_tissues(tmp_path: Path) -> None:
    text = "participant_id|session_id|map|label|path\n01|1|FA|GM|fa.nii\n01|1|FA|WM|fa.nii\n"
    assert len(read_images(write(tmp_path, "images.tsv", text))) == 2


def test_read_images__refuses_a_misspelt_column(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"the column 'vol' is not known\. Did you mean 'volume'\?"):
        read_images(write(tmp_path, "images.tsv", "participant_id|map|path|vol\n01|FA|a.nii|0\n"))


def test_build_cohort__joins_days_and_sorts(tmp_path: Path) -> None:
    found = cohort(tmp_path)
    keys = ["map", "label", "participant_id", "session_id"]
    assert found.images[keys].values.tolist() == sorted(found.images[keys].values.tolist())
    rows = found.images[["path", "day"]].itertuples(index=False)
    assert [(Path(path).name, day) for path, day in rows] == [
        ("fa.nii.gz", 0.0), ("a.nii.gz", 0.0), ("b.nii.gz", 28.0), ("four.nii", 0.0), ("four.nii", 27.0)
    ]  # fmt: skip
    assert found.warnings == ()


@pytest.mark.parametrize("seed", range(5))
def test_build_cohort__does_not_depend_on_the_order_of_rows(tmp_path: Path, seed: int) -> None:
    def shuffled(text: str) -> str:
        header, *rows = text.splitlines()
        random.Random(seed).shuffle(rows)
        return "\n".join([header, *rows]) + "\n"

    straight = cohort(tmp_path)
    mixed = cohort(tmp_path, participants=shuffled(PARTICIPANTS), sessions=shuffled(SESSIONS), images=shuffled(IMAGES))
    pd.testing.assert_frame_equal(mixed.images, straight.images)
    pd.testing.assert_frame_equal(mixed.participants, straight.participants)
    assert mixed.left_out == straight.left_out


def test_build_cohort__names_who_has_no_image(tmp_path: Path) -> None:
    images = "\n".join(line for line in IMAGES.splitlines() if not line.startswith("sub-01|ses-2"))
    found = [(a.participant_id, a.session_id, a.reason) for a in cohort(tmp_path, images=images).left_out]
    assert [(p, s) for p, s, _ in found] == [("10", None), ("01", "2")]
    assert found[0][2] == "is in the participants table but has no image"
    assert found[1][2] == "the session is in the sessions table but has no image"


def test_build_cohort__refuses_an_image_of_an_unknown_participant(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"sub-03_ses-1: has images \(.*c\.nii\), expected a row of participant 03"):
        cohort(tmp_path, images=IMAGES + "03|1|R1map|GM|c.nii|n/a\n")


@pytest.mark.parametrize(
    ("cells", "extent"),
    [
        (["1.3.2020", "8.3.2020", "15.3.2020"], "the whole column is affected"),
        (["2020-03-01", "8.3.2020", "15.3.2020"], "2 of its 3 cells are affected"),
    ],
)
def test_read_sessions__says_how_much_of_a_column_of_dates_is_wrong(
    tmp_path: Path, cells: list[str], extent: str
) -> None:
    rows = "".join(f"01|{k}|{cell}\n" for k, cell in enumerate(cells))
    with pytest.raises(TableError) as caught:
        read_sessions(write(tmp_path, "s.tsv", f"participant_id|session_id|acq_time\n{rows}"))
    (problem,) = caught.value.problems
    assert extent in problem
    assert "Write the dates as YYYY-MM-DD" in problem


def test_read_images__backslashes_are_one_problem_that_names_the_slash(tmp_path: Path) -> None:
    rows = "".join(f"{k:02d}|FA|sub-{k:02d}\\FA.nii\n" for k in range(1, 31))
    with pytest.raises(TableError) as caught:
        read_images(write(tmp_path, "images.tsv", f"participant_id|map|path\n{rows}"))
    (problem,) = caught.value.problems
    assert "sub-01, " in problem
    assert "and 22 more" in problem
    assert "Write '/' in place of '\\' (first: sub-01\\FA.nii)" in problem


def many(count: int, zeros: bool = True) -> tuple[str, str, str]:
    """Return tables of participants, sessions and images of many people."""
    names = [f"{k:02d}" for k in range(1, count + 1)]
    people = "".join(f"{name if zeros else name.lstrip('0')}|patients|40\n" for name in names)
    days = "".join(f"{name}|1|n/a\n" for name in names)
    images = "".join(f"{name}|1|FA||{name}.nii|n/a\n" for name in names)
    return (
        f"participant_id|group|age\n{people}",
        f"participant_id|session_id|day\n{days}",
        f"participant_id|session_id|map|label|path|volume\n{images}",
    )


def test_build_cohort__rows_without_a_day_are_one_problem(tmp_path: Path) -> None:
    participants, sessions, images = many(31)
    with pytest.raises(TableError) as caught:
        cohort(tmp_path, participants=participants, sessions=sessions, images=images)
    (problem,) = caught.value.problems
    assert problem.startswith("sub-01_ses-1, sub-02_ses-1, sub-03_ses-1 and 28 more: have images (e.g. ")
    assert "found a row without a day. Fill in the day" in problem
    assert "Did you mean" not in problem


def test_build_cohort__lost_zeros_of_many_are_one_problem(tmp_path: Path) -> None:
    participants, _, images = many(9, zeros=False)
    with pytest.raises(TableError) as caught:
        cohort(tmp_path, participants=participants, sessions=None, images=images)
    (problem,) = caught.value.problems
    assert problem.startswith("sub-01_ses-1, sub-02_ses-1, sub-03_ses-1 and 6 more: ")
    assert "It has sub-1 for sub-01: a spreadsheet may have removed leading zeros. Add the rows" in problem


def test_build_cohort__recognises_lost_zeros(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="It has sub-01: a spreadsheet may have removed leading zeros"):
        cohort(tmp_path, images=IMAGES.replace("sub-01", "1"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sub-01|ses-2|28\n", "", r"sub-01_ses-2: has images \(.*b\.nii\.gz\), .*found the sessions 1\."),
        ("sub-01|ses-2|28\n", "sub-01|ses-2|n/a\n", "sub-01_ses-2: .*found a row without a day"),
        ("sub-02|ses-1|0\nsub-02|ses-2|27\n", "", "sub-02_ses-1, sub-02_ses-2: .*found no session of this participant"),
    ],
)
def test_build_cohort__refuses_an_image_without_a_day(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(TableError, match=words):
        cohort(tmp_path, sessions=SESSIONS.replace(old, new))


def test_build_cohort__refuses_images_without_session_where_there_are_sessions(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"sub-01: has images .*found no session_id in the images table"):
        cohort(tmp_path, images="participant_id|map|path\n01|FA|a.nii\n")


def test_build_cohort__refuses_two_images_of_one_kind(tmp_path: Path) -> None:
    images = read_images(write(tmp_path, "images.tsv", IMAGES))
    people = read_participants(write(tmp_path, "participants.tsv", PARTICIPANTS))
    with pytest.raises(TableError, match="expected one FA"):
        build_cohort(pd.concat([images, images]), people, None)


def test_build_cohort__without_sessions_days_are_missing(tmp_path: Path) -> None:
    assert np.isnan(cohort(tmp_path, sessions=None).images["day"]).all()


def test_build_cohort__warns_of_a_file_named_after_somebody_else(tmp_path: Path) -> None:
    warnings = cohort(tmp_path, images=IMAGES.replace("b.nii.gz", "sub-02_ses-2_R1map.nii.gz")).warnings
    assert len(warnings) == 1
    assert "sub-01_ses-2: the images table gives it sub-02_ses-2_R1map.nii.gz" in warnings[0]


def test_build_cohort__warns_where_days_and_dates_disagree(tmp_path: Path) -> None:
    rows = "01|1|0|2020-01-01\n01|2|28|2020-03-01\n02|1|0|n/a\n02|2|27|n/a\n"
    sessions = f"participant_id|session_id|day|acq_time\n{rows}"
    warnings = cohort(tmp_path, sessions=sessions).warnings
    assert len(warnings) == 1
    assert "sub-01_ses-2: 28 days after ses-1 by day, 60 by acq_time" in warnings[0]


def test_cohort_joined__has_the_columns_of_the_participants(tmp_path: Path) -> None:
    joined = cohort(tmp_path).joined()
    assert joined["group"].tolist() == ["patients", "patients", "patients", "untrained", "untrained"]
    assert len(joined) == 5


def test_read_images__tells_of_all_wrong_cells_at_once_equal_ones_together(tmp_path: Path) -> None:
    rows = "01|1|R1|GM|a.nii|\n02|1|R1|GM|b.nii|\n03|1|R1map|gm|c.nii|\n04|1|R1map|GM||\n05|1|R1map|GM|d.nii|"
    with pytest.raises(TableError) as caught:
        read_images(write(tmp_path, "images.tsv", f"participant_id|session_id|map|label|path|volume\n{rows}\n"))
    found = [problem.split("images.tsv: ")[1] for problem in caught.value.problems]
    assert [text.split(": ")[0] for text in found] == ["sub-01_ses-1, sub-02_ses-1", "sub-03_ses-1", "sub-04_ses-1"]
    assert "map 'R1' is not known" in found[0]


def test_build_cohort__what_is_measured_at_each_visit_is_averaged_over_the_scanned_ones(tmp_path: Path) -> None:
    lines = SESSIONS.splitlines()
    extra = ["tiv|age|scanner", "1500|1|A", "1510|1|A", "1400|1|B", "n/a|1|B", "1300|1|A"]
    joined = cohort(tmp_path, sessions="\n".join(f"{a}|{b}" for a, b in zip(lines, extra, strict=True)) + "\n")
    people = joined.participants.set_index("participant_id")
    assert people["tiv"].to_list()[:2] == [1505.0, 1400.0]
    assert np.isnan(people.loc["10", "tiv"])  # no image at the only visit
    assert people["age"].to_list()[:2] == [45.0, 52.5]  # the participants table has it
    assert "scanner" not in people
    assert joined.visit_means == ("tiv",)
