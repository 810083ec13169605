"""Errors that users see.

Every message names four things: the unit it is about (participant, session, file or setting), what was expected,
what was found (with units) and the next action. Each class also derives from the closest built-in, so that
``except ValueError`` in a notebook works as people expect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VoxcloudError(Exception):
    """Base of every error that voxcloud raises on purpose.

    ``retryable`` says whether trying the same work again may succeed: storage and worker faults may, bad input
    never does.
    """

    retryable: bool = False

    @property
    def problems(self) -> tuple[str, ...]:
        """Every problem that the error tells of: one sentence or more for each, so that nobody mends one by one."""
        return tuple(str(a) for a in self.args)

    def __str__(self) -> str:
        # KeyError quotes its message; a sentence for a person must not be quoted.
        return "\n".join(self.problems)


class StudyFileError(VoxcloudError, ValueError):
    """The study file is not valid."""


class TableError(VoxcloudError, ValueError):
    """A table (participants, sessions, images) is wrong or does not fit the others."""


class ImageError(VoxcloudError, ValueError):
    """An image cannot be read, or is not what the study says it is."""


class BidsError(VoxcloudError, ValueError):
    """A raw BIDS data set, or one session of it, cannot be used as it is; every problem is told."""


class MissingMetadataError(VoxcloudError, KeyError):
    """A sidecar or header lacks something that is needed."""


class FormulaError(VoxcloudError, ValueError):
    """A formula or expression holds something that is not allowed, or names an unknown column."""


class DesignError(VoxcloudError, ValueError):
    """A design cannot be built or fitted as asked."""


class ContrastError(VoxcloudError, ValueError):
    """A contrast is not estimable or not written in names."""


class MaskError(VoxcloudError, ValueError):
    """A mask is empty or on another grid."""


class RegistrationError(VoxcloudError, RuntimeError):
    """Two images could not be registered."""


class PlanError(VoxcloudError, ValueError):
    """The plan cannot be carried out, e.g. a unit that is larger than any worker."""


class StorageError(VoxcloudError, OSError):
    """The store failed; the unit can be tried again."""

    retryable = True


class StorageFullError(StorageError):
    """No space is left on the store; trying again does not help until somebody makes room."""

    retryable = False


class CorruptStoreError(VoxcloudError, OSError):
    """A stored object is missing, cut short or holds other bytes than its record says."""


class NewerSchemaError(VoxcloudError, ValueError):
    """A study file, record, manifest or stack was written by a newer voxcloud."""


class LeaseHeldError(VoxcloudError, RuntimeError):
    """Another run works on this study."""


class LeaseLostError(VoxcloudError, RuntimeError):
    """This run lost its lease and must not write any more."""


class UnitFailedError(VoxcloudError, RuntimeError):
    """One or more work units failed."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the valid name closest to ``name``, or an empty string."""
    found = difflib.get_close_matches(name, [str(v) for v in valid], n=1, cutoff=0.5)
    return f" Did you mean '{found[0]}'?" if found else ""
