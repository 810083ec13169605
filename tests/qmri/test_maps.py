"""Maps end to end: against the toolbox, against simulated truth, and what must never change a result."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from voxcloud.errors import ImageError, MaskError, MissingMetadataError
from voxcloud.qmri.epg import Spoiling, flash_epg
from voxcloud.qmri.estatics import fit_estatics
from voxcloud.qmri.maps import QuantitativeMaps, create_maps
from voxcloud.qmri.presets import PRESETS
from voxcloud.qmri.protocol import Contrast, ProtocolError
from voxcloud.qmri.relaxation import ernst_signal
from voxcloud.qmri.spoiling import SpoilingCoefficients, spoiling_coefficients, spoiling_slope

Simulated = Callable[..., Any]
NAMES = ("R1map", "A", "MTsat", "R2starmap")


def run(session: Any, **options: Any) -> QuantitativeMaps:
    return create_maps(session.pdw, session.t1w, session.mtw, **({"b1": session.b1} | options))


def assert_same_bits(one: QuantitativeMaps, other: QuantitativeMaps, where: Any = ...) -> None:
    assert set(one.maps) == set(other.maps)
    for name in one.maps:
        np.testing.assert_array_equal(one.maps[name][where], other.maps[name][where])
        np.testing.assert_array_equal(one.errors[name][where], other.errors[name][where])


@pytest.mark.parametrize("preset, case", [("hmri-1.0", "default_B1"), ("hmri-0.x", "ols_small_B1")])
def test_create_maps__agrees_with_the_toolbox(arrays: Callable[[str], Any], preset: str, case: str) -> None:
    t = arrays("mtprot_reference")

    def contrast(name: str, degrees: float) -> Contrast:
        echoes = np.moveaxis(t[f"in_{name}"], -1, 0)
        times = [2.34e-3 * (i + 1) for i in range(len(echoes))]
        return Contrast(name, echoes, times, float(np.deg2rad(degrees)), 0.0245)

    b1 = t["in_B1_pu"] / np.float32(100)
    found = create_maps(contrast("PDw", 6), contrast("T1w", 21), contrast("MTw", 6), b1=b1, preset=preset)
    for name, short, tolerance in (
        ("R1map", "R1", {"atol": 1e-6, "rtol": 0}),
        ("R2starmap", "R2s", {"atol": 5e-6, "rtol": 0}),
        ("MTsat", "MTsat", {"atol": 1e-6, "rtol": 0}),
        ("A", "A", {"atol": 0, "rtol": 1e-6}),
    ):
        assert found.maps[name].dtype == np.float32
        np.testing.assert_allclose(found.maps[name], t[f"out_{case}_{short}"], **tolerance)
        if short != "R2s":
            np.testing.assert_allclose(found.errors[name], t[f"err_{case}_{short}"], rtol=1e-6)
    assert found.record["voxels"]["clipped"]["R1map"] == int((t[f"out_{case}_R1"] >= 2).sum()) > 0


@pytest.mark.parametrize(
    "preset, r1, amplitude", [("hmri-1.0", 7e-4, 3e-5), ("hmri-0.x", 0.093, 0.070)], ids=["exact", "small-angle"]
)
def test_create_maps__recovers_simulated_truth(simulated: Simulated, preset: str, r1: float, amplitude: float) -> None:
    session = simulated(
        milliseconds=(23.7, 18.7, 24.5), degrees=(6, 20, 6), n_echoes=(8, 6, 6), first_echo_ms=(2.2, 1.9, 2.4)
    )
    found = run(session, preset=preset).maps
    np.testing.assert_allclose(found["R2starmap"], session.truth["R2starmap"], rtol=1e-9)
    np.testing.assert_allclose(found["R1map"], session.truth["R1map"], rtol=r1)
    np.testing.assert_allclose(found["A"], session.truth["A"], rtol=amplitude)


def test_create_maps__mtsat_is_that_of_the_saturation_at_nominal_angles(simulated: Simulated) -> None:
    session = simulated()
    found = create_maps(
        session.pdw,
        session.t1w,
        session.mtw,
        b1=session.b1,
        preset=replace(PRESETS["hmri-1.0"], mtsat_correction="lipp", mtsat_constant=0.0),
    )
    # The simulated saturation does not depend on B1: with actual angles and no factor it comes back.
    np.testing.assert_allclose(found.maps["MTsat"], session.truth["MTsat"], rtol=0.05, atol=0.02)


def test_create_maps__scaling_b1_and_signals_together_does_not_move_r1(simulated: Simulated) -> None:
    session = simulated()
    stronger = [
        replace(
            c,
            echoes=[
                ernst_signal(session.truth["R1map"], session.truth["A"], c.excitation, 1.1 * session.b1)
                * np.exp(-t * session.truth["R2starmap"])
                for t in c.echo_time_s
            ],
        )
        for c in (session.pdw, session.t1w)
    ]
    moved = create_maps(*stronger, b1=1.1 * session.b1).maps["R1map"]
    np.testing.assert_allclose(moved, run(session).maps["R1map"], rtol=5e-3)
    assert np.abs(create_maps(*stronger, b1=session.b1).maps["R1map"] / moved - 1).min() > 0.15


def test_create_maps__errors_are_the_spread_of_repeated_measurements(simulated: Simulated) -> None:
    session = simulated((1,))
    rng = np.random.default_rng(2)
    n = 4000
    repeated = [
        replace(c, echoes=[np.full(n, e[0]) + rng.normal(0, 0.3, n) for e in c.echoes])
        for c in (session.pdw, session.t1w, session.mtw)
    ]
    found = create_maps(*repeated, b1=np.full(n, session.b1[0]))
    for name in ("R1map", "A", "MTsat"):
        # Errors of single echoes are taken for those of signals at TE = 0, as published: right within a factor of two.
        ratio = float(np.median(found.errors[name])) / float(found.maps[name].std())
        assert 0.5 < ratio < 2.0, name
    ratio = float(np.median(found.errors["R2starmap"])) / float(found.maps["R2starmap"].std())
    assert ratio == pytest.approx(np.sqrt(18 / 22), rel=0.1)


@pytest.mark.parametrize("block", [1, 13, 4096])
def test_create_maps__block_size_does_not_change_a_bit(simulated: Simulated, block: int) -> None:
    session = simulated((7, 5, 3), noise=6, dtype=np.float32)
    assert_same_bits(run(session, block_voxels=block), run(session, block_voxels=50))


def test_create_maps__order_of_echoes_and_memory_do_not_change_a_bit(simulated: Simulated) -> None:
    session = simulated(noise=6)
    order = [3, 0, 5, 1, 4, 2, 7, 6]
    turned = [
        replace(
            c,
            echoes=[np.asfortranarray(c.echoes[i]) for i in order if i < len(c.echoes)],
            echo_time_s=[c.echo_time_s[i] for i in order if i < len(c.echoes)],
        )
        for c in (session.pdw, session.t1w, session.mtw)
    ]
    assert_same_bits(create_maps(*turned, b1=session.b1, block_voxels=11), run(session))


def test_create_maps__mask_leaves_the_rest_alone(simulated: Simulated) -> None:
    session = simulated(noise=6)
    mask = np.random.default_rng(0).random((6, 5, 4)) < 0.4
    whole, part = run(session), run(session, mask=mask, block_voxels=9)
    assert_same_bits(part, whole, mask)
    assert all(np.isnan(values[~mask]).all() for values in (*part.maps.values(), *part.errors.values()))
    assert part.record["voxels"]["computed"] == mask.sum()


def test_create_maps__what_is_unknown_stays_where_it_is(simulated: Simulated) -> None:
    session = simulated(noise=6)
    clean = run(session)
    session.t1w.echoes[2][1, 2, 3] = np.nan
    session.b1[4, 0, 0], session.b1[5, 4, 3] = np.nan, 0.0
    found = run(session)
    touched = np.zeros((6, 5, 4), dtype=bool)
    touched[1, 2, 3] = True
    assert np.isnan([found.maps[name][1, 2, 3] for name in NAMES]).all()
    for place in ((4, 0, 0), (5, 4, 3)):
        touched[place] = True
        assert np.isnan(found.maps["R1map"][place])
        assert found.maps["R2starmap"][place] == clean.maps["R2starmap"][place]
    assert_same_bits(found, clean, ~touched)
    assert found.record["voxels"]["not_finite"]["R1map"] == 3


def test_create_maps__clips_and_counts(simulated: Simulated) -> None:
    session = simulated()
    tight = replace(
        PRESETS["hmri-1.0"], r1_limits=(0.8, 1.2), amplitude_limit=1000.0, mtsat_limit=1.0, r2star_limit=20.0
    )
    found = run(session, preset=tight)
    whole = run(session)
    for name, low, high in (("R1map", 0.8, 1.2), ("A", -1000, 1000), ("MTsat", -1, 1), ("R2starmap", -20, 20)):
        np.testing.assert_array_equal(found.maps[name], np.clip(whole.maps[name], low, high))
        outside = (whole.maps[name] < low) | (whole.maps[name] > high)
        assert found.record["voxels"]["clipped"][name] == outside.sum() > 0


def test_create_maps__makes_pd_where_white_matter_is_known(simulated: Simulated) -> None:
    session = simulated(noise=2)
    white = np.where(np.arange(6)[:, None, None] < 3, 0.97, 0.0) * np.ones((6, 5, 4))
    field = np.linspace(0.5, 2.0, 4) * np.ones((6, 5, 4))
    found, plain = run(session, white_matter_probability=white, receive_field=field), run(session)
    assert "A" not in found.maps
    assert found.units["PDmap"] == "p.u."
    assert found.maps["PDmap"][:3].mean() == pytest.approx(69.0)
    ratio = found.maps["PDmap"] / (plain.maps["A"] / field)
    np.testing.assert_allclose(ratio, found.record["pd_factor"], rtol=1e-9)
    np.testing.assert_allclose(
        found.errors["PDmap"] / found.maps["PDmap"], plain.errors["A"] / plain.maps["A"], rtol=1e-9
    )
    degradation = found.record["motion_degradation_per_s"]
    assert set(degradation) == {"PDw", "T1w", "MTw"}
    assert degradation["PDw"] == pytest.approx(session.truth["R2starmap"][:3].std(ddof=1), rel=0.1)
    half = np.zeros((6, 5, 4), dtype=bool)
    half[:2] = True
    alone = fit_estatics({"T1w": session.t1w.echoes}, {"T1w": session.t1w.echo_time_s}).r2star
    masked = run(session, white_matter_probability=white, mask=half).record["motion_degradation_per_s"]
    assert masked["T1w"] == pytest.approx(alone[:2].std(ddof=1), rel=1e-9)
    assert masked["T1w"] != pytest.approx(degradation["T1w"], rel=1e-3)
    with pytest.raises(MaskError, match="white matter"):
        run(session, white_matter_probability=np.zeros((6, 5, 4)))


def test_create_maps__receive_sensitivities_undo_a_move_between_contrasts(simulated: Simulated) -> None:
    session = simulated(noise=0)
    rng = np.random.default_rng(4)
    seen = []
    for c in (session.pdw, session.t1w, session.mtw):
        sensitivity = rng.uniform(0.7, 1.4, (6, 5, 4))
        seen.append(replace(c, echoes=[e * sensitivity for e in c.echoes], receive_sensitivity=sensitivity))
    found, plain = create_maps(*seen, b1=session.b1), run(session)
    for name in NAMES:
        np.testing.assert_allclose(found.maps[name], plain.maps[name], rtol=1e-9)
    noisy = simulated(noise=4)
    halved = [
        replace(c, echoes=[0.5 * np.asarray(e) for e in c.echoes], receive_sensitivity=np.full((6, 5, 4), 0.5))
        for c in (noisy.pdw, noisy.t1w, noisy.mtw)
    ]
    for name in NAMES:
        np.testing.assert_allclose(
            create_maps(*halved, b1=noisy.b1).errors[name], run(noisy).errors[name], rtol=1e-9, err_msg=name
        )
    uncorrected = create_maps(*(replace(c, receive_sensitivity=None) for c in seen), b1=session.b1)
    assert np.abs(uncorrected.maps["R1map"] / plain.maps["R1map"] - 1).max() > 0.1


def test_create_maps__means_of_echoes_give_the_same_without_noise(simulated: Simulated) -> None:
    session = simulated(first_echo_ms=(2.3, 2.3, 2.3), n_echoes=(8, 7, 6))
    found = run(session, preset=replace(PRESETS["hmri-1.0"], signal="mean-echoes"))
    plain = run(session)
    for name in NAMES:
        np.testing.assert_allclose(found.maps[name], plain.maps[name], rtol=1e-9)
    other = simulated(first_echo_ms=(2.3, 1.9, 2.3))
    with pytest.raises(ProtocolError, match=r"expected the echo times of PDw .* in T1w\. Use signal 'te0'"):
        run(other, preset=replace(PRESETS["hmri-1.0"], signal="mean-echoes"))


@pytest.fixture(scope="module")
def coefficients(simulated: Simulated) -> SpoilingCoefficients:
    session = simulated((1,))
    return spoiling_coefficients(
        session.pdw.excitation,
        session.t1w.excitation,
        t1_range_s=[0.6, 0.9, 1.3, 1.7],
        b1_range=[0.8, 0.9, 1, 1.1, 1.2],
    )


def test_create_maps__corrects_imperfect_spoiling(simulated: Simulated, coefficients: SpoilingCoefficients) -> None:
    session = simulated((1,))
    t1, b1 = np.array([0.7, 1.0, 1.5]), np.array([0.9, 1.0, 1.1])
    seen = []
    for c in (session.pdw, session.t1w):
        pulses = (15 * t1 / c.repetition_time_s).astype(int)
        at_zero = 1000 * flash_epg(b1 * c.flip_angle_rad, t1, pulses, c.repetition_time_s, Spoiling())
        seen.append(replace(c, echoes=[at_zero * np.exp(-20 * t) for t in c.echo_time_s]))
    plain, found = create_maps(*seen, b1=b1), create_maps(*seen, b1=b1, spoiling=coefficients)
    assert np.abs(plain.maps["R1map"] * t1 - 1).max() > 0.01
    np.testing.assert_allclose(found.maps["R1map"], 1 / t1, rtol=2e-3)
    np.testing.assert_array_equal(found.maps["A"], plain.maps["A"])
    noisy = simulated(noise=2)
    before, after = run(noisy), run(noisy, spoiling=coefficients)
    slope = spoiling_slope(before.maps["R1map"], noisy.b1, coefficients)
    np.testing.assert_allclose(after.errors["R1map"] / before.errors["R1map"], slope, rtol=1e-9)
    assert "R1 corrected for imperfect spoiling." in found.record["corrections"]
    assert "spoiling" in found.record["references"]


def test_create_maps__makes_what_the_contrasts_allow(simulated: Simulated) -> None:
    session = simulated()
    assert set(create_maps(session.pdw, b1=None).maps) == {"R2starmap"}
    assert set(create_maps(session.pdw, session.t1w, b1=session.b1).maps) == {"R2starmap", "R1map", "A"}
    assert set(run(session).maps) == set(run(session).errors) == set(run(session).units) == set(NAMES)


def test_create_maps__says_that_b1_is_missing(simulated: Simulated) -> None:
    session = simulated()
    found = run(session, b1=None)
    assert found.record["b1"] == "none"
    assert any("semi-quantitative" in words for words in found.record["corrections"])
    assert not any("semi-quantitative" in words for words in run(session).record["corrections"])
    with pytest.raises(TypeError, match="b1"):
        create_maps(session.pdw, session.t1w, session.mtw)  # type: ignore[call-arg]


def test_create_maps__record_is_json_and_names_what_was_changed(
    simulated: Simulated, coefficients: SpoilingCoefficients
) -> None:
    preset = replace(PRESETS["hmri-1.0"], weighted_passes=2, r1_limits=(0.0, 3.0))
    record = run(simulated(), preset=preset, spoiling=coefficients).record
    assert json.loads(json.dumps(record)) == record
    assert record["preset"] == "hmri-1.0"
    assert record["changed_from_preset"] == {"weighted_passes": 2, "r1_limits": [0.0, 3.0]}
    assert record["contrasts"]["MTw"]["echo_time_s"][1] == pytest.approx(0.00464)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"b1": np.full((6, 5, 4), 98.0)}, ImageError, "b1: expected the ratio .* Is it in percent"),
        ({"b1": np.ones((6, 5))}, ImageError, r"b1: expected an image of shape \(6, 5, 4\)"),
        ({"mask": np.ones(3)}, ImageError, "mask: expected an image"),
        ({"preset": "hmri"}, ProtocolError, "preset: expected one of hmri-1.0, hmri-0.x"),
        ({"block_voxels": 0}, ProtocolError, "block_voxels: expected at least 1"),
        ({"receive_field": np.ones(3)}, ImageError, "receive field: expected an image"),
    ],
)
def test_create_maps__refuses_what_does_not_fit(
    simulated: Simulated, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run(simulated(), **options)


def test_create_maps__refuses_half_of_what_it_needs(simulated: Simulated, coefficients: SpoilingCoefficients) -> None:
    session = simulated()
    with pytest.raises(MissingMetadataError, match="MTsat needs a T1w contrast"):
        create_maps(session.pdw, mtw=session.mtw, b1=session.b1)
    with pytest.raises(MissingMetadataError, match="found no B1 map"):
        run(session, b1=None, spoiling=coefficients)
    with pytest.raises(ProtocolError, match="no information on R1"):
        create_maps(session.pdw, replace(session.pdw, name="T1w"), b1=session.b1)
    with pytest.raises(ImageError, match=r"T1w: expected an image of shape \(6, 5, 4\)"):
        create_maps(session.pdw, simulated((6, 5, 3)).t1w, b1=session.b1)
    sensed = replace(session.pdw, receive_sensitivity=np.ones((6, 5, 4)))
    with pytest.raises(MissingMetadataError, match="one for every contrast"):
        create_maps(sensed, session.t1w, b1=session.b1)


def test_create_maps__memory_beside_inputs_and_maps_is_bounded(simulated: Simulated) -> None:
    session = simulated((60, 50, 40), noise=5, dtype=np.float32)
    b1 = session.b1.astype(np.float32)
    tracemalloc.start()
    found = run(session, b1=b1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = sum(values.nbytes for values in (*found.maps.values(), *found.errors.values()))
    # 22 echoes of 120,000 voxels in float64 would be 21 MB; a block of 4,096 needs about 3 MB.
    assert peak - kept < 8e6
