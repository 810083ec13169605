"""Changes of the simulated raw study: their course, their place, and what the truth says of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from voxcloud.errors import PlanError
from voxcloud.testing.anatomy import mni_anatomy
from voxcloud.testing.cohort import REFERENCE_DAYS, make_cohort
from voxcloud.testing.design import MODELS, PolynomialTime
from voxcloud.testing.fields import distance_mm
from voxcloud.testing.raw_changes import STUDY_CHANGES, RawChange, check_changes, planted_entries

TIME = PolynomialTime(REFERENCE_DAYS)
LINEAR = RawChange("up", "R1map", "WM", "linear", (0.0, 0.0, 0.0), 10.0, 0.05)
QUADRATIC = replace(LINEAR, name="there_and_back", term="quadratic", excursion=-0.04)
COHORT = make_cohort(group_sizes={"sci_arm": 3, "sci_leg": 3, "con_none": 6})
TIV = {participant: 1600.0 + 37.0 * at**2 for at, participant in enumerate(COHORT.participants["participant_id"])}
TRAINING = tuple(model for model in MODELS if model.name == "training")


def test_raw_change__a_linear_one_grows_from_day_0_to_the_last_day() -> None:
    amounts = [LINEAR.amount(TIME, day) for day in REFERENCE_DAYS]
    np.testing.assert_allclose(amounts, 0.05 * np.array(REFERENCE_DAYS) / 84.0, atol=1e-12)


def test_raw_change__a_quadratic_one_is_a_parabola_with_its_excursion_and_its_coefficient() -> None:
    amounts = np.array([QUADRATIC.amount(TIME, day) for day in REFERENCE_DAYS])
    assert amounts[0] == 0.0
    assert amounts[np.argmax(np.abs(amounts))] == pytest.approx(-0.04)
    # By least squares, independently: the coefficient of t^2 is the change per unit of the term.
    t = np.array(REFERENCE_DAYS) / 84.0
    square = np.polynomial.polynomial.polyfit(t, amounts, 2)[2]
    assert QUADRATIC.coefficient(TIME) == pytest.approx(square, rel=1e-9)
    assert QUADRATIC.coefficient(TIME) > 0  # it dips: a positive curvature


def test_raw_change__growth_makes_volumes_so_much_larger() -> None:
    assert np.exp(replace(LINEAR, map="volume").growth(0.05).log_jacobian) == pytest.approx(1.05)


def test_raw_change__multipliers_are_those_of_the_groups() -> None:
    groups = dict(zip(COHORT.participants["participant_id"], COHORT.participants["group"], strict=True))
    found = replace(LINEAR, weights={"sci_arm": 1.0, "con_none": -0.5}).multipliers(COHORT)
    assert {groups[p]: m for p, m in found.items()} == {"sci_arm": 1.0, "sci_leg": 0.0, "con_none": -0.5}
    assert set(LINEAR.multipliers(COHORT).values()) == {1.0}


def test_study_changes__balls_lie_apart_and_mostly_in_their_tissue() -> None:
    check_changes(STUDY_CHANGES)
    anatomy = mni_anatomy(4.0)
    balls = {c.name: distance_mm(anatomy.shape, anatomy.affine, c.centre_mm) <= c.radius_mm for c in STUDY_CHANGES}
    for change in STUDY_CHANGES:
        own = anatomy.tissue(change.label)[balls[change.name]]
        mask = own >= {"GM": 0.2, "WM": 0.6}[change.label]
        assert mask.sum() >= 40, change.name
        assert anatomy.mask[balls[change.name]].mean() > 0.95, change.name
        for other in STUDY_CHANGES:
            if other is not change:
                apart = np.linalg.norm(np.subtract(change.centre_mm, other.centre_mm))
                assert apart > change.radius_mm + other.radius_mm + 6.0, (change.name, other.name)


def test_study_changes__every_map_has_a_linear_and_a_quadratic_one() -> None:
    assert sorted((c.map, c.term) for c in STUDY_CHANGES) == sorted(
        (name, term) for name in ("R1map", "MTsat", "FA", "volume") for term in ("linear", "quadratic")
    )


def test_planted_entries__six_against_six_are_expected_to_show_every_change_with_its_sign() -> None:
    maps = ("R1map", "MTsat", "R2starmap", "FA", "MD", "AD", "RD", "volume")
    entries = planted_entries(STUDY_CHANGES, maps, COHORT, TIV, 8.0, TRAINING)
    direct = [e for e in entries if not e["induced_by"]]
    assert len(direct) == 2 * len(STUDY_CHANGES)
    for change in STUDY_CHANGES:
        own, other = sorted((e for e in direct if e["name"] == change.name), key=lambda e: e["label"] != change.label)
        assert own["label"] == change.label
        (shown,) = own["shows_in"]
        up = change.coefficient(TIME) > 0
        assert shown["direction"] == ("greater" if up else "less")
        assert own["sign"] == ("positive" if up else "negative")
        assert shown["expected"]
        assert (shown["model"], shown["coefficient"]) == ("training", change.term)
        assert not other["shows_in"][0]["expected"]
    induced = {(e["map"], e["name"]): e["sign"] for e in entries if e["induced_by"]}
    assert induced["AD", "fa_left_corona_radiata"] == "positive"
    assert induced["RD", "fa_left_corona_radiata"] == "negative"


def test_planted_entries__without_models_nothing_shows() -> None:
    entries = planted_entries((LINEAR,), ("R1map",), COHORT, TIV, 8.0, ())
    assert [e["shows_in"] for e in entries] == [[], []]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"map": "R1"}, "map of change up is expected to be one of R1map"),
        ({"label": "CSF"}, "label of change up is expected to be one of GM, WM, found CSF"),
        ({"term": "cubic"}, "term of change up is expected to be one of linear, quadratic, found cubic"),
        ({"excursion": 5.0}, "excursion of change up is expected to be -0.5 to 0.5, found 5. 0.05 is 5 %"),
    ],
)
def test_check_changes__refuses_what_cannot_be(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        check_changes([replace(LINEAR, **change)])  # type: ignore[arg-type]


def test_check_changes__refuses_volumes_that_overlap_and_names_used_twice() -> None:
    one = replace(LINEAR, map="volume")
    near = replace(one, name="near", centre_mm=(20.0, 0.0, 0.0))
    with pytest.raises(PlanError, match=r"found up and near 20 mm apart\. Place them at least 38 mm"):
        check_changes([one, near])
    check_changes([LINEAR, replace(near, map="R1map")])
    with pytest.raises(PlanError, match="names of changes are expected to differ"):
        check_changes([LINEAR, LINEAR])
