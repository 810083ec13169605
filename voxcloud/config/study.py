"""The study file: one frozen tree, every key described, unknown keys refused.

The descriptions here are the reference page (``docs/reference/study-file.md``) and the help texts of the service's
form: they are written for the person who fills the file in.
"""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from voxcloud.config.dwi import Dwi
from voxcloud.config.mpm import Mpm
from voxcloud.config.part import Part
from voxcloud.config.regions import Regions
from voxcloud.config.space import Space

Label = Literal["GM", "WM", ""]
Direction = Literal["greater", "less"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]

Participant = Annotated[str, Field(pattern=r"^sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?$")]

WHERE_PATTERN = re.compile(r"^\s*group\s+in\s+\[\s*([A-Za-z0-9_\-]+(?:\s*,\s*[A-Za-z0-9_\-]+)*)\s*\]\s*$")
SESSIONS_PATTERN = re.compile(r"^\s*day\s*(<=|>=|<|>|==)\s*(-?\d+(?:\.\d+)?)\s*$")


class TissueMask(Part):
    """How an analysis mask is cut from tissue probability images."""

    map: str = Field("probseg", description="Map in the images table that holds the unmodulated tissue probability.")
    threshold: float = Field(
        ...,
        gt=0,
        lt=1,
        description="Voxels whose mean probability (over participants, of the mean over visits) is below this are "
        "left out.",
    )


DEFAULT_MASKS: dict[str, TissueMask] = {"GM": TissueMask(threshold=0.2), "WM": TissueMask(threshold=0.6)}


class SearchVolume(Part):
    """A volume in which clusters are looked for (small-volume correction)."""

    path: str = Field(..., description="NIfTI mask (values above 0 are inside) on the grid of `mask`.")
    label: Label = Field("", description="Tissue whose maps are searched in this volume; empty: every map.")


class Time(Part):
    """The time basis: built once from the reference days, evaluated at the actual days."""

    basis: Literal["polynomial", "piecewise", "categorical"] = Field("polynomial", description="Kind of basis.")
    reference_days: tuple[float, ...] = Field(..., description="Days of the complete design, e.g. [0, 7, 14, 28, 84].")
    terms: tuple[str, ...] = Field(
        ("linear", "quadratic"),
        description="Terms beside the intercept. polynomial: linear, quadratic, cubic; piecewise and categorical: "
        "made from knots or days.",
    )
    orthogonalise: str | None = Field(
        None,
        description="This term is residualised on the intercept and the other terms over the reference days. Its "
        "own t map stays that of the plain model; the other term absorbs the shared variance.",
    )
    knots: tuple[float, ...] = Field((), description="Days at which the slope of a piecewise basis may change.")

    @field_validator("reference_days")
    @classmethod
    def _increasing(cls, days: tuple[float, ...]) -> tuple[float, ...]:
        if len(days) < 2 or any(b <= a for a, b in itertools.pairwise(days)):
            raise ValueError("expected at least two days in increasing order")
        return days


class ContrastSpec(Part):
    """One question, written in names."""

    test: str | tuple[str, ...] = Field(
        ...,
        description='A comparison such as "group[patients] - group[untrained]", a covariate such as "age", '
        '"intercept"; a list of them is an F test.',
    )
    alternative: Literal["greater", "less", "two-sided"] = Field(
        ..., description="No default: greater, less, or two-sided (both directions are searched and both count)."
    )

    @model_validator(mode="after")
    def _f_has_no_direction(self) -> ContrastSpec:
        if not isinstance(self.test, str) and self.alternative != "two-sided":
            raise ValueError("a list of tests is an F test, which has no direction: write alternative: two-sided")
        return self


class Inference(Part):
    """How clusters become p values."""

    method: Literal["random-field", "permutation"] = Field(
        "random-field", description="random-field (as SPM12) or permutation (Freedman-Lane, max statistic)."
    )
    cluster_forming_p: float = Field(
        0.001,
        gt=0,
        description="Cluster-forming threshold as an uncorrected p value (never a t value). Above 0.001 needs "
        "accept_liberal_threshold.",
    )
    min_extent: int = Field(
        20, ge=0, description="Clusters below this number of voxels are not listed; applied after the correction."
    )
    alpha: float = Field(
        0.05, gt=0, lt=1, description="Level at which a family-wise corrected cluster counts as found."
    )
    accept_liberal_threshold: bool = Field(
        False, description="Accept a cluster-forming p above 0.001; every page is stamped."
    )
    permutations: int = Field(5000, ge=99, description="Number of permutations (method: permutation).")
    permutation_beside: Literal["auto", "always", "never"] = Field(
        "auto",
        description="random-field: permutation p values of the clusters found too (up to 1,000 relabellings). auto: "
        "where the theory's assumptions are doubtful (fewer than 20 degrees of freedom, FWHM below 3 voxels, uneven "
        "smoothness), a cluster with p below 0.1 was found, and relabelling the largest search volume takes no more "
        "than 1 GB of memory; where it takes more, the result says so.",
    )
    seed: int = Field(0, ge=0, description="Seed of the permutations.")

    @field_validator("cluster_forming_p")
    @classmethod
    def _p_not_t(cls, p: float) -> float:
        if p >= 0.5:
            raise ValueError(
                f"expected a p value such as 0.001, found {p:g}, which looks like a t or z statistic. "
                "Give the threshold as a p value (z 3.1 is p 0.001)"
            )
        return p

    @model_validator(mode="after")
    def _liberal(self) -> Inference:
        if self.cluster_forming_p > 0.001 and self.method == "random-field" and not self.accept_liberal_threshold:
            raise ValueError(
                f"cluster_forming_p {self.cluster_forming_p:g} is above 0.001, where random-field cluster p values "
                "are too small. "
                "Use 0.001, or method: permutation, or set accept_liberal_threshold: true"
            )
        return self


class Model(Part):
    """One group model: who, which maps, which design, which questions."""

    name: Name = Field(..., description="Short name; becomes part of file names.")
    maps: tuple[str, ...] = Field(
        ..., min_length=1, description="Maps to analyse; every label (GM, WM) that exists is analysed apart."
    )
    labels: tuple[Label, ...] | None = Field(None, description="Only these labels; default: all that the maps have.")
    where: str | None = Field(
        None, description='Who enters: "group in [patients, untrained]" (names of `groups` or of the group column).'
    )
    estimator: Literal["two-stage", "ols", "paired"] = Field(
        "two-stage",
        description="two-stage: per-participant OLS over visits, then the group model on each coefficient; ols: one "
        "image per participant; paired: difference of two days.",
    )
    coefficients: tuple[str, ...] | None = Field(
        None, description="Time terms to test (two-stage); default: all terms of the basis."
    )
    session: str | None = Field(
        None, description="ols: `baseline` (day 0 of the study), `mean` (mean of the visits), or a session label."
    )
    days: tuple[float, float] | None = Field(
        None,
        description="paired: [first, second]; the image analysed is second minus first. A visit on another day stands "
        "for the reference day of `time` that it is nearest to.",
    )
    sessions: str | None = Field(None, description='Which sessions enter, e.g. "day <= 28"; default: all.')
    min_visits: int | None = Field(
        None, ge=1, description="two-stage: fewest visits of a participant; at least terms + 1, which is the default."
    )
    max_variance_ratio: float = Field(
        4.0,
        gt=1,
        description="two-stage: a participant whose missing visits inflate the variance of a coefficient by more "
        "than this over the complete design leaves that coefficient, by name.",
    )
    weights: Literal["equal", "precision"] = Field(
        "equal", description="two-stage: weight participants equally or by the precision of their coefficient."
    )
    accept_unequal_variance: bool = Field(
        False,
        description="two-stage: keep participants above max_variance_ratio in a plain unweighted fit; every page is "
        "stamped.",
    )
    variance: Literal["equal", "unequal"] = Field(
        "equal",
        description="unequal: one global covariance with a variance per group by ReML, as SPM12's default for "
        "two-sample tests.",
    )
    formula: str = Field(
        "1",
        description="Wilkinson formula over participants, e.g. `group + age + tiv`; numeric covariates are centred "
        "over the people fitted.",
    )
    contrasts: dict[Name, ContrastSpec] = Field(..., min_length=1, description="Questions by name.")
    inference: Inference = Field(Inference(), description="How clusters become p values.")

    @field_validator("where")
    @classmethod
    def _where(cls, where: str | None) -> str | None:
        if where is not None and not WHERE_PATTERN.match(where):
            raise ValueError(f"expected `group in [name, name]`, found `{where}`")
        return where

    @field_validator("sessions")
    @classmethod
    def _sessions(cls, rule: str | None) -> str | None:
        if rule is not None and not SESSIONS_PATTERN.match(rule):
            raise ValueError(f"expected a comparison such as `day <= 28`, found `{rule}`")
        return rule

    @model_validator(mode="after")
    def _estimator_settings(self) -> Model:
        if self.estimator == "paired" and self.days is None:
            raise ValueError("estimator paired needs days: [first, second]")
        if self.estimator != "paired" and self.days is not None:
            raise ValueError(f"days is a setting of estimator paired, found estimator {self.estimator}")
        listed = [name for name, contrast in self.contrasts.items() if not isinstance(contrast.test, str)]
        if self.inference.method == "permutation" and listed:
            raise ValueError(
                f"contrasts.{listed[0]}: method permutation tests t contrasts, found a list (an F test). Write its "
                "parts as contrasts of their own, or use method: random-field"
            )
        if self.estimator != "ols" and self.session is not None:
            raise ValueError(f"session is a setting of estimator ols, found estimator {self.estimator}")
        if self.weights == "precision" and self.variance == "unequal":
            raise ValueError(
                "weights: precision and variance: unequal each estimate a covariance of the participants; choose one"
            )
        if self.weights == "precision" and self.estimator != "two-stage":
            raise ValueError(f"weights is a setting of estimator two-stage, found estimator {self.estimator}")
        if self.estimator != "two-stage":
            for key in ("coefficients", "min_visits"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} is a setting of estimator two-stage, found estimator {self.estimator}")
        files: dict[str, str] = {}
        for name in self.contrasts:
            # Names of files hold letters and digits only, and some disks do not tell capitals apart.
            other = files.setdefault(name.replace("-", "").replace("_", "").casefold(), name)
            if other != name:
                raise ValueError(f"contrasts: {other} and {name} would be the same file; rename one")
        return self

    @property
    def where_groups(self) -> tuple[str, ...] | None:
        """Names in ``where``, or None for everybody."""
        if self.where is None:
            return None
        found = WHERE_PATTERN.match(self.where)
        assert found is not None  # the validator has seen to it
        return tuple(part.strip() for part in found.group(1).split(","))

    def session_enters(self, day: float) -> bool:
        """Whether a session on this day enters the model."""
        if self.sessions is None:
            return True
        found = SESSIONS_PATTERN.match(self.sessions)
        assert found is not None  # the validator has seen to it
        limit = float(found.group(2))
        return {"<=": day <= limit, ">=": day >= limit, "<": day < limit, ">": day > limit, "==": day == limit}[
            found.group(1)
        ]


class Score(Part):
    """One behavioural score."""

    better: Literal["higher", "lower"] = Field(
        ..., description="Which direction is better; `improvement` is signed by it."
    )
    range: tuple[float, float] | None = Field(
        None,
        description="Smallest and largest score that can occur, e.g. [0, 100]; a plateau outside it is flagged and "
        "not used.",
    )


class Behaviour(Part):
    """Learning data: a curve alpha - delta exp(-gamma day) per participant and score."""

    table: str = Field(..., description="TSV with participant_id, day and one column per score.")
    scores: dict[Name, Score] = Field(
        ...,
        min_length=1,
        description="Scores by column name. Their <score>_alpha, _delta, _gamma and _improvement become columns "
        "that formulas can name.",
    )
    retention: tuple[float, float] | None = Field(
        None,
        description="Two days of the learning data, e.g. [28, 84], compared within participants (signed-rank): is "
        "what was learned kept? Default: not tested.",
    )

    @field_validator("retention")
    @classmethod
    def _in_order(cls, days: tuple[float, float] | None) -> tuple[float, float] | None:
        if days is not None and not days[0] < days[1]:
            raise ValueError("expected two days, the earlier one first")
        return days


class Atlas(Part):
    """Region names for the cluster tables, from an atlas folder that the user has."""

    image: str = Field(..., description="NIfTI of the atlas (probabilistic or labels).")
    labels: str = Field(..., description="Label XML of the atlas (FSL layout).")


class Compute(Part):
    """Where the work runs; never part of a fingerprint."""

    engine: str = Field(
        "local", description="serial, threads, local (worker processes), address, or an installed engine."
    )
    workers: int | Literal["auto"] = Field("auto", description="Number of workers, at least 1; auto: one per core.")
    memory_per_worker: str | Literal["auto"] = Field(
        "auto", description='e.g. "4 GB"; auto: this machine\'s memory shared out.'
    )
    address: str | None = Field(None, description="engine address: the scheduler, e.g. tls://host:8786.")

    @field_validator("workers")
    @classmethod
    def _workers(cls, workers: int | Literal["auto"]) -> int | Literal["auto"]:
        if workers != "auto" and workers < 1:
            raise ValueError(f"expected 1 or more, found {workers}")
        return workers


class Study(Part):
    """A whole study."""

    schema_version: Literal[1] = Field(..., alias="schema", description="Version of this file's format.")
    name: Name = Field(..., description="Name of the study.")
    output: str = Field(..., description="Folder that voxcloud writes; one study per folder.")
    bids: str | None = Field(
        None, description="BIDS data set with raw images, from which maps are made for every participant and session."
    )
    mpm: Mpm | None = Field(None, description="Make R1, MTsat, PD and R2* from the multi-parameter mapping in `bids`.")
    dwi: Dwi | None = Field(None, description="Make FA, MD, AD and RD from the diffusion images in `bids`.")
    space: Space | None = Field(
        None,
        description="Bring the maps into template space, with tissue volumes, and analyse them: in place of `images` "
        "and `mask`.",
    )
    images: str | None = Field(
        None,
        description="images.tsv (participant_id session_id map label path [volume]) or a BIDS derivatives folder. "
        "Models need it, or `space`.",
    )
    participants: str | None = Field(
        None, description="participants.tsv: participant_id, group and covariates. Models need it."
    )
    sessions: str | None = Field(
        None,
        description="sessions.tsv: participant_id session_id day. A numeric column that the participants table lacks "
        "(tiv, say) is averaged over a participant's visits. Not needed for one image per participant.",
    )
    baseline_session: str | None = Field(
        None,
        pattern=r"^(ses-)?[A-Za-z0-9]+$",
        description="Only where the sessions table has dates (acq_time) and no day: the session whose date is day 0. "
        "Default: the session that comes first in most participants.",
    )
    mask: str | None = Field(
        None,
        description="Fixed superset mask; its grid is the grid of the analysis. Models need it, or `space`, whose "
        "mask is the template's brain.",
    )
    masks: dict[Literal["GM", "WM"], TissueMask] = Field(
        {},
        description="Analysis masks per label, cut from tissue maps at model time. Default with `space`: GM from 0.2, "
        "WM from 0.6.",
    )
    search_volumes: dict[Name, SearchVolume] = Field(
        {}, description="Small volumes to search; default: the whole analysis mask."
    )
    regions: Regions | None = Field(
        None, description="Small volumes to search, made of the regions of an atlas that you have."
    )
    atlas: Atlas | None = Field(None, description="Region names for the tables.")
    template: str | None = Field(
        None, description="Background of the figures; default: the MNI152 template of nilearn."
    )
    groups: dict[Name, tuple[str, ...]] = Field({}, description="Unions of levels of the group column.")
    time: Time | None = Field(None, description="The time basis of two-stage models.")
    behaviour: Behaviour | None = Field(None, description="Learning data.")
    models: tuple[Model, ...] = Field((), description="Group models; may be left out where only maps are made.")
    family: Literal["all", "model", "none"] = Field(
        "all", description="What the adjusted p values are counted over: the study, each model, or nothing."
    )
    analysis: Literal["interim", "locked"] = Field(
        "interim",
        description="interim: results carry their look number and n and a stamp; locked: data collection is "
        "complete and the model is final.",
    )
    leave_out: dict[Participant, str] = Field(
        {},
        description="Participants (sub-03) and sessions (sub-03_ses-2) of `bids` to leave out, each with the reason, "
        "which the report prints.",
    )
    on_bad_image: Literal["stop", "exclude"] = Field(
        "stop", description="stop, or go on without a bad image and name it in the report."
    )
    compute: Compute = Field(Compute(), description="Where the work runs.")

    def why_left_out(self, participant: str, session: str) -> str | None:
        """Return the reason for which the file leaves a session out; None if it does not."""
        found = self.leave_out.get(f"sub-{participant}")
        return self.leave_out.get(f"sub-{participant}_ses-{session}") if found is None else found

    @property
    def tissue_masks(self) -> dict[str, TissueMask]:
        """The analysis masks: those of the file, or with ``space`` the defaults for what the file leaves out."""
        found: dict[str, TissueMask] = dict(DEFAULT_MASKS) if self.space is not None else {}
        return found | dict(self.masks)

    @model_validator(mode="after")
    def _hangs_together(self) -> Study:
        names = [m.name for m in self.models]
        wrong = self._stages()
        wrong += [f"models: the name {name} is used twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        for model in self.models:
            if model.estimator == "two-stage" and self.time is None:
                wrong.append(f"model {model.name}: estimator two-stage needs the `time` section")
            if self.sessions is None:
                setting = "session: baseline" if model.session == "baseline" else None
                setting = f"estimator {model.estimator}" if model.estimator != "ols" else setting
                setting = f"sessions: {model.sessions}" if setting is None and model.sessions else setting
                if setting:
                    wrong.append(f"model {model.name}: {setting} needs `sessions`, the table with the days")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _stages(self) -> list[str]:
        """Return what is missing for what the study asks: maps from raw data, group models, or both."""
        wrong = []
        asked = [name for name in ("mpm", "dwi") if getattr(self, name) is not None]
        if self.space is not None and self.mpm is None:
            wrong.append("space needs `mpm`, whose maps tell one tissue from the other")
        if asked and self.bids is None:
            wrong.append(f"{asked[0]} needs `bids`, the data set with the raw images")
        if self.bids is not None and not asked:
            wrong.append(
                "bids needs a section that says what to make of it: `mpm: {}` or `dwi: {}` makes maps with the defaults"
            )
        if self.models:
            made = ("images", "mask") if self.space is not None else ()
            for key in ("images", "participants", "mask"):
                if key in made and getattr(self, key) is not None:
                    wrong.append(f"`space` makes what `{key}` would name: take one of the two out")
                elif key not in made and getattr(self, key) is None:
                    wrong.append(f"models need `{key}`: {type(self).model_fields[key].description}")
        elif self.bids is None:
            wrong.append(
                "expected `models` (group statistics), or `bids` with `mpm` or `dwi` (maps from raw images), found "
                "neither"
            )
        return wrong
