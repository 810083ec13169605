"""Inheritance of sidecars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from voxcloud.bids.sidecars import Metadata
from voxcloud.errors import BidsError, ImageError

IMAGE = "sub-01/ses-1/anat/sub-01_ses-1_acq-PDw_echo-2_MPM"


def test_of__the_nearest_wins_and_says_where_it_comes_from(bare: Any) -> None:
    path = bare.image(IMAGE, {"EchoTime": 0.0046})
    bare.json("MPM.json", {"EchoTime": 1, "FlipAngle": 6, "MTState": False})
    bare.json("sub-01/sub-01_acq-PDw_MPM.json", {"FlipAngle": 5})
    bare.json("sub-01/sub-01_acq-T1w_MPM.json", {"FlipAngle": 21})
    bare.json("TB1AFI.json", {"RepetitionTime": 1})
    found = Metadata(bare.root).of(path)
    assert found.values == {"EchoTime": 0.0046, "FlipAngle": 5, "MTState": False}
    assert {key: source.name for key, source in found.sources.items()} == {
        "EchoTime": "sub-01_ses-1_acq-PDw_echo-2_MPM.json",
        "FlipAngle": "sub-01_acq-PDw_MPM.json",
        "MTState": "MPM.json",
    }


def test_of__sidecars_at_the_root_alone_will_do(bare: Any) -> None:
    path = bare.image(IMAGE)
    bare.json("acq-PDw_echo-2_MPM.json", {"EchoTime": 0.0046})
    assert Metadata(bare.root).of(path).get("EchoTime") == 0.0046


def test_of__two_that_apply_in_one_folder_are_refused_by_name(bare: Any) -> None:
    path = bare.image(IMAGE, {})
    bare.json("acq-PDw_MPM.json", {})
    bare.json("echo-2_MPM.json", {})
    with pytest.raises(BidsError, match=r"found acq-PDw_MPM\.json and echo-2_MPM\.json in \."):
        Metadata(bare.root).of(path)


def test_of__another_image_s_own_sidecar_is_not_inherited_by_one_that_has_its_own(bare: Any) -> None:
    bare.image("sub-01/anat/sub-01_echo-1_MPM", {"EchoTime": 1, "FlipAngle": 21})
    path = bare.image("sub-01/anat/sub-01_run-2_echo-1_MPM", {"EchoTime": 2})
    assert Metadata(bare.root).of(path).values == {"EchoTime": 2}


def test_of__reads_each_file_once(bare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.json("MPM.json", {"FlipAngle": 6})
    images = [bare.image(f"sub-{p}/anat/sub-{p}_echo-{n}_MPM", {"EchoTime": n}) for p in ("01", "02") for n in (1, 2)]
    read: list[str] = []
    plain = Path.read_text

    def counted(self: Path, *args: Any, **kwargs: Any) -> str:
        read.append(self.name)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", counted)
    metadata = Metadata(bare.root)
    assert [metadata.of(image).get("EchoTime") for image in (*images, *images[2:])] == [1, 2, 1, 2, 1, 2]
    assert sorted(read) == ["MPM.json", *(f"sub-{p}_echo-{n}_MPM.json" for p in ("01", "02") for n in (1, 2))]


def test_of__what_macos_leaves_is_no_sidecar(bare: Any) -> None:
    path = bare.image(IMAGE, {"EchoTime": 0.0046})
    (path.parent / f"._{path.stem}.json").write_bytes(b"\x00\x05\x16\x07")
    assert Metadata(bare.root).of(path).get("EchoTime") == 0.0046


def test_of__extensions_in_capitals(bare: Any) -> None:
    path = bare.image(IMAGE, {"EchoTime": 0.0046})
    path.with_suffix(".json").rename(path.with_suffix(".JSON"))
    capitals = path.rename(path.with_suffix(".NII"))
    assert Metadata(bare.root).of(capitals).get("EchoTime") == 0.0046


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"EchoTime": ', "Expecting value"), ("[1]", "found a list"), ("", "Expecting value"), ("[" * 10**5, "deep")],
)
def test_of__a_damaged_sidecar_is_named(bare: Any, text: str, said: str) -> None:
    path = bare.image(IMAGE)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(ImageError, match=rf"echo-2_MPM\.json: expected a JSON .*{said}"):
        Metadata(bare.root).of(path)


def test_of__a_sidecar_that_git_annex_has_not_fetched(bare: Any) -> None:
    path = bare.image(IMAGE)
    path.with_suffix(".json").symlink_to("../../../.git/annex/objects/xy/SHA256E-s1--ab.json")
    with pytest.raises(ImageError, match=r"git-annex link whose content is not here\. Get it with: git annex get"):
        Metadata(bare.root).of(path)


def test_of__nothing_above_the_root_is_read(bare: Any) -> None:
    path = bare.image(IMAGE, {})
    (bare.root.parent / "MPM.json").write_text('{"FlipAngle": 6}')
    assert Metadata(bare.root).of(path).get("FlipAngle") is None


def test_of__an_image_elsewhere_is_refused(bare: Any, tmp_path: Path) -> None:
    with pytest.raises(BidsError, match="found it elsewhere"):
        Metadata(bare.root).of(tmp_path / "sub-01_MPM.nii")
