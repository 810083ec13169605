"""Which sessions of a raw BIDS data set hold images of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxcloud.bids.raw import LABEL, check_dataset, listed, parse_image_name, session_folders
from voxcloud.bids.runs import same_run
from voxcloud.errors import BidsError, nearest

LISTED = 10
LOOKED_AT = 20  # folders whose other images a message tells of


@dataclass(frozen=True)
class Wanted:
    """Images of one kind.

    Attributes
    ----------
    datatype, suffix
        Folder and suffix, e.g. ``dwi`` and ``dwi``.
    hint
        A sentence for a data set that has none.
    """

    datatype: str
    suffix: str
    hint: str

    @property
    def files(self) -> str:
        """The images in words."""
        return f"images *_{self.suffix}.nii[.gz]"

    def is_in(self, folder: Path) -> bool:
        """Say whether a session's folder holds such an image."""
        return any(_suffix(path) == self.suffix for path in listed(folder / self.datatype))


def find_visits(
    root: str | Path, wanted: Wanted, participants: Sequence[str] = (), sessions: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return (participant, session) of every session with images of one kind, in order.

    These lie in ``sub-*/[ses-*/]<datatype>``; the session is empty where there are no session folders.

    Parameters
    ----------
    root
        Folder of a raw BIDS data set.
    participants, sessions
        Labels to keep, with or without ``sub-`` and ``ses-``; empty keeps all. A participant may lack a session.

    Raises
    ------
    BidsError
        If the folder is not such a data set, holds no such images, or a label asked for does not exist.
    """
    root = Path(root)
    check_dataset(root)
    folders = list(session_folders(root))
    people = list(dict.fromkeys(person for person, _, _ in folders))
    named = [label.removeprefix("sub-") for label in participants]
    visits = [label.removeprefix("ses-") for label in sessions]
    chosen = [f for f in folders if not named or f[0] in named]
    labels = list(dict.fromkeys(session for _, session, _ in chosen if session))
    problems = [_unknown("participant", "sub", label, people) for label in named if label not in people]
    problems += [_unknown("session", "ses", label, labels) for label in visits if label not in labels]
    found = [(person, session) for person, session, folder in chosen if wanted.is_in(folder)]
    problems += [
        f"sub-{label}: expected {wanted.files} in {wanted.datatype}, found none. Leave the participant out, or restore "
        "them."
        for label in named
        if label in people and label not in {person for person, _ in found}
    ]
    for label, prefix in dict.fromkeys([(p, "sub") for p, _ in found] + [(s, "ses") for _, s in found if s]):
        if not LABEL.fullmatch(label):
            problems.append(
                f"{root / f'{prefix}-{label}'}: expected a label of letters and digits, found '{label}'. Rename the "
                "folder and its files, or move it out of the data set."
            )
    if problems:
        raise BidsError(*problems)
    if not found:
        raise BidsError(
            f"{root}: expected {wanted.files} in sub-*/[ses-*/]{wanted.datatype}, found none among "
            f"{len(people)} participants{_others(wanted, chosen)}. {wanted.hint}"
        )
    kept = [pair for pair in found if not visits or pair[1] in visits]
    if not kept:
        raise BidsError(
            f"{root}: expected {wanted.files} in the sessions {', '.join(visits)}, found none. "
            f"Sessions that have some: {', '.join(sorted({s for _, s in found if s})) or 'none'}."
        )
    return sorted(kept)


def _unknown(kind: str, prefix: str, label: str, valid: Sequence[str]) -> str:
    # 1 where 01 is meant is nearer than 10, which has as many letters in common.
    same = next((f" Did you mean '{v}'?" for v in valid if same_run(label, v)), "")
    some = ", ".join(valid[:LISTED]) + (", ..." if len(valid) > LISTED else "")
    return (
        f"{prefix}-{label}: expected a {kind} of the data set, found no folder {prefix}-{label}."
        f"{same or nearest(label, valid)} There are: {some or 'none'}."
    )


def _suffix(path: Path) -> str:
    parsed = parse_image_name(path.name)
    return parsed[1] if parsed else ""


def _others(wanted: Wanted, folders: Sequence[tuple[str, str, Path]]) -> str:
    """Return which other images there are, for a message."""
    found = {_suffix(path) for _, _, folder in folders[:LOOKED_AT] for path in listed(folder / wanted.datatype)} - {""}
    return f" ({wanted.datatype} has {', '.join(sorted(found))})" if found else ""
