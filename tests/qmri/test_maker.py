"""Maps block by block: the same as all at once, counted, and unknown voxels stay unknown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from voxcloud.errors import ImageError, MissingMetadataError
from voxcloud.qmri.estatics import fit_estatics
from voxcloud.qmri.maker import MapMaker
from voxcloud.qmri.maps import create_maps
from voxcloud.qmri.presets import PRESETS
from voxcloud.qmri.protocol import ProtocolError, SeriesProtocol

Simulated = Callable[..., Any]
SHAPE = (6, 5, 4)


def contrasts_of(session: Any) -> dict[str, Any]:
    return {"PDw": session.pdw, "T1w": session.t1w, "MTw": session.mtw}


def maker_of(session: Any, **options: Any) -> MapMaker:
    return MapMaker({k: c.protocol for k, c in contrasts_of(session).items()}, **({"with_b1": True} | options))


def slabs(session: Any, dtype: type = np.float32) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield signals and B1 of one slab along the first axis after another."""
    for x in range(SHAPE[0]):
        signals = {
            key: np.stack([np.asarray(e)[x].ravel() for e in c.echoes]).astype(dtype)
            for key, c in contrasts_of(session).items()
        }
        yield signals, session.b1[x].ravel()


def test_block__slabs_make_the_same_maps_as_whole_images(simulated: Simulated) -> None:
    session = simulated(SHAPE, noise=6, dtype=np.float32)
    tight = replace(PRESETS["hmri-1.0"], r1_limits=(0.5, 1.2))
    whole = create_maps(session.pdw, session.t1w, session.mtw, b1=session.b1, preset=tight)
    maker = maker_of(session, preset=tight)
    made = [maker.block(signals, b1) for signals, b1 in slabs(session)]
    for name, values in whole.maps.items():
        np.testing.assert_array_equal(np.concatenate([m[name] for m in made]), values.ravel())
        np.testing.assert_array_equal(np.concatenate([m[f"{name}_error"] for m in made]), whole.errors[name].ravel())
    assert {m[name].dtype for m in made for name in maker.names} == {np.dtype(np.float32)}
    record = maker.record()
    assert record["voxels"].items() <= whole.record["voxels"].items()
    assert record["voxels"]["clipped"]["R1map"] > 0
    assert {k: v for k, v in whole.record.items() if k in record and k != "voxels"} == {
        k: v for k, v in record.items() if k != "voxels"
    }
    assert json.loads(json.dumps(record)) == record


def test_block__gives_r2star_of_each_contrast_on_request(simulated: Simulated) -> None:
    session = simulated(SHAPE, noise=6)
    maker = maker_of(session, single_contrasts=True)
    assert set(maker.names) - set(maker_of(session).names) == {"R2starmap_PDw", "R2starmap_T1w", "R2starmap_MTw"}
    signals, b1 = next(slabs(session, np.float64))
    found = maker.block(signals, b1)
    assert tuple(found) == maker.names
    for key, contrast in contrasts_of(session).items():
        alone = fit_estatics({key: list(signals[key])}, {key: contrast.echo_time_s}).r2star
        np.testing.assert_array_equal(found[f"R2starmap_{key}"], alone)


@pytest.mark.parametrize("key", ["PDw", "T1w", "MTw"])
def test_block__what_is_unknown_in_one_echo_is_unknown_in_every_map(simulated: Simulated, key: str) -> None:
    session = simulated(SHAPE, noise=6)
    signals, b1 = next(slabs(session, np.float64))
    maker = maker_of(session, single_contrasts=True)
    clean = maker.block(signals, b1)
    signals[key][3, 7] = np.nan
    found = maker.block(signals, b1)
    others = np.arange(b1.size) != 7
    for name in maker.names:
        if name == f"R2starmap_{key}" or not name.startswith("R2starmap_"):
            assert np.isnan(found[name][7]), name
        np.testing.assert_array_equal(found[name][others], clean[name][others])
    assert maker.not_finite["R1map"] == 1
    assert maker.computed == 2 * b1.size


def test_block__zeros_that_were_measured_are_raised_to_the_floor(simulated: Simulated) -> None:
    session = simulated(SHAPE, noise=6)
    signals, b1 = next(slabs(session))
    raised = {key: values.copy() for key, values in signals.items()}
    signals["T1w"][5, 3], raised["T1w"][5, 3] = 0.0, 1.0
    one, other = maker_of(session).block(signals, b1), maker_of(session).block(raised, b1)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert np.isfinite(one["R1map"][3])


def test_block__divides_sensitivities_out(simulated: Simulated) -> None:
    session = simulated(SHAPE, noise=0)
    signals, b1 = next(slabs(session, np.float64))
    receive = {"PDw": np.full(20, 2.0), "T1w": np.full(20, 0.5), "MTw": np.full(20, 1.25)}
    seen = {key: values * receive[key] for key, values in signals.items()}
    maker = maker_of(session, with_receive=True)
    found, plain = maker.block(seen, b1, receive), maker_of(session).block(signals, b1)
    for name in ("R1map", "A", "MTsat"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-9)
    assert "Signals of each contrast corrected for the measured receive sensitivity." in maker.record()["corrections"]


def test_block__names_what_does_not_fit(simulated: Simulated) -> None:
    session = simulated(SHAPE)
    signals, b1 = next(slabs(session))
    maker = maker_of(session)
    with pytest.raises(MissingMetadataError, match="expected b1 of all, found none"):
        maker.block(signals)
    with pytest.raises(MissingMetadataError, match="expected b1 of none, found all"):
        maker_of(session, with_b1=False).block(signals, b1)
    with pytest.raises(MissingMetadataError, match="expected receive of none, found MTw"):
        maker.block(signals, b1, {"MTw": b1})
    with pytest.raises(MissingMetadataError, match="expected signals of MTw, PDw, T1w, found PDw"):
        maker.block({"PDw": signals["PDw"]}, b1)
    with pytest.raises(ImageError, match=r"signals of MTw of shape \(6, 20\), found \(5, 20\)"):
        maker.block(signals | {"MTw": signals["MTw"][:5]}, b1)
    with pytest.raises(ImageError, match=r"b1 of shape \(20,\), found \(19,\)"):
        maker.block(signals, b1[1:])
    assert maker.computed == 0


def test_map_maker__refuses_other_contrasts(simulated: Simulated) -> None:
    pdw = simulated().pdw.protocol
    with pytest.raises(MissingMetadataError, match="expected PDw, and T1w and MTw if there are, found T1w"):
        MapMaker({"T1w": pdw}, with_b1=False)
    with pytest.raises(MissingMetadataError, match="found PDw, pdw"):
        MapMaker({"PDw": pdw, "pdw": pdw}, with_b1=False)


def test_series_protocol__needs_no_images_and_checks_the_same() -> None:
    times = [0.0023 * (i + 1) for i in range(6)]
    series = SeriesProtocol("PDw", times, 0.1, 0.025)
    assert series.describe() == {"flip_angle_rad": 0.1, "repetition_time_s": 0.025, "echo_time_s": times}
    with pytest.raises(ProtocolError, match=r"longer than the last echo time \(0\.0138 s\), found 0\.0138 s"):
        SeriesProtocol("PDw", times, 0.1, times[-1])
