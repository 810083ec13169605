"""Steps that fit: analysis masks, fit arrays, voxel blocks, the covariance of unequal variances."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from voxcloud.errors import CorruptStoreError, MaskError
from voxcloud.inference.smoothness import residual_rows
from voxcloud.models.ols import OLSFit, PreparedDesign, f_contrast, fit_ols, multiply_rows, prepare_design, t_contrast
from voxcloud.pipeline.pooling import covariance_of, make_pool, read_covariance, table_shape
from voxcloud.pipeline.stacking import spec_of
from voxcloud.plan.paths import DESIGNS_PREFIX, fit_prefix, pools_variances
from voxcloud.plan.unit import WorkUnit, digest_json
from voxcloud.storage.regions import ArrayTemplate, create_template, open_array, write_region
from voxcloud.storage.stack import Manifest, StackSpec, latest_manifest, read_block, verify_manifest
from voxcloud.storage.store import Store

LOG = logging.getLogger(__name__)

# Of a weighted sum: what float64 may miss of it. One step of float32 in one image is a million times as large.
ROUNDING = 64 * np.finfo(np.float64).eps

# Voxels fitted at once: their coefficients and residuals stay in the cache of one core, and memory beyond the block and
# the results is small. Products of matrices have a fixed width below this (``fit_ols``): it changes no bit.
PANEL_VOXELS = 2_048


def read_design(store: Store, digest: str) -> dict[str, Any]:
    """Read a design file and check that it is the one that the unit was planned with."""
    tree: dict[str, Any] = json.loads(store.read_bytes(f"{DESIGNS_PREFIX}/{digest}.json"))
    if digest_json(tree) != digest:
        raise CorruptStoreError(
            f"{DESIGNS_PREFIX}/{digest}.json: the design file was changed. Run the study again, which writes it anew."
        )
    return tree


def rows_of(manifest: Manifest, images: Sequence[Sequence[str]]) -> list[int]:
    """Return the stack rows of images given as (participant_id, session_id, digest)."""
    rows = {(r.participant_id, r.session_id, r.digest): r.row for r in manifest.rows}
    try:
        return [rows[(i[0], i[1], i[2])] for i in images]
    except KeyError as error:
        raise CorruptStoreError(f"the manifest has no row for the image {error}. Run the study again.") from None


def checked_manifest(store: Store, spec: StackSpec) -> Manifest:
    """Return the newest manifest after checking its shards: a lost shard would read as NaN without an error."""
    manifest = latest_manifest(store, spec)
    if manifest is None:
        raise CorruptStoreError(f"{spec.map} {spec.label}: no manifest. Run the study again, which writes it.")
    verify_manifest(store, manifest)
    return manifest


def tissue_mask(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Cut an analysis mask where the mean over participants of their mean over visits reaches the threshold."""
    spec, _ = spec_of(unit)
    manifest = checked_manifest(store, spec)
    images = unit.places["images"]
    rows = rows_of(manifest, images)
    people = sorted({image[0] for image in images})
    voxels = len(spec.voxel_index)
    mean = np.zeros(voxels)
    for start in range(0, voxels, spec.block_voxels):
        stop = min(start + spec.block_voxels, voxels)
        block = read_block(store, manifest, rows, start, stop).astype(np.float64)
        block[~np.isfinite(block)] = 0.0
        total = np.zeros(stop - start)
        for person in people:
            own = [i for i, image in enumerate(images) if image[0] == person]
            total += block[own].sum(axis=0) / len(own)
        mean[start:stop] = total / len(people)
    mask = mean >= unit.params["threshold"]
    if not mask.any():
        raise MaskError(
            f"analysis mask {unit.name}: expected voxels with mean {unit.params['label']} probability of at least "
            f"{unit.params['threshold']:g}, found none (largest mean {mean.max():.3g}). Check "
            f"masks.{unit.params['label']} "
            "and the tissue images."
        )
    buffer = io.BytesIO()
    np.save(buffer, mask, allow_pickle=False)
    store.write_bytes(unit.outputs[0], buffer.getvalue())
    return {"voxels": int(mask.sum()), "of": voxels, "threshold": unit.params["threshold"], "participants": len(people)}


def load_tissue_mask(unit: WorkUnit, store: Store) -> np.ndarray | None:
    """Return the analysis mask of a unit over the stack's voxels, or None for every voxel."""
    path = unit.places.get("tissue_mask")
    return None if path is None else np.load(io.BytesIO(store.read_bytes(path)), allow_pickle=False)


def fit_template(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Write the metadata of the fit's arrays; blocks then write whole chunks and never change metadata."""
    spec, _ = spec_of(unit)
    design = read_design(store, unit.inputs["design"])
    voxels, chunk = len(spec.voxel_index), unit.params["unit_voxels"]
    tests = test_names(design)
    wide = ("voxel",)
    arrays = [
        ArrayTemplate("valid", wide, (voxels,), (chunk,), "uint8"),
        ArrayTemplate("n", wide, (voxels,), (chunk,), "int32"),
    ]
    for name, rows, dims in (
        ("effect", len(tests), "test"),
        ("se", len(tests), "test"),
        ("statistic", len(tests), "test"),
        ("resms", len(design["coefficients"]), "coefficient"),
    ):
        arrays.append(ArrayTemplate(name, (dims, "voxel"), (rows, voxels), (rows, chunk), "float64"))
    for coefficient, entry in design["coefficients"].items():
        people = len(entry["participants"])
        residuals = min(people, unit.params["residual_images"])
        blocks = -(-voxels // chunk)
        arrays += [
            ArrayTemplate(
                f"value_{coefficient}", ("participant", "voxel"), (people, voxels), (people, chunk), "float32"
            ),
            ArrayTemplate(
                f"residual_{coefficient}", ("image", "voxel"), (residuals, voxels), (residuals, chunk), "float32"
            ),
        ]
        if pools_variances(design["variance"], design["weights"]):
            table = table_shape(design, coefficient)
            arrays.append(
                ArrayTemplate(
                    f"pooled_{coefficient}", ("block", "row", "column"), (blocks, *table), (1, *table), "float64"
                )
            )
    attributes = {
        "tests": tests,
        "participants": {c: e["participants"] for c, e in design["coefficients"].items()},
        "design": unit.inputs["design"],
        "block_voxels": chunk,
        "affine": np.asarray(spec.affine).tolist(),
        "shape": list(spec.shape),
    }
    create_template(store, fit_prefix(design["model"], design["stack"]), arrays, attributes)
    return {"tests": len(tests)}


def test_names(design: Mapping[str, Any]) -> list[list[str]]:
    """Return [coefficient, contrast] of every test, in the order of the fit's `test` axis."""
    return [[c, name] for c, entry in design["coefficients"].items() for name in entry["tests"]]


def first_level(block: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Return each participant's value: the weighted sum of that participant's images, shape (participants, voxels).

    Products and sums are float64 and run image by image in a fixed order, so that the last bit does not depend on how
    voxels were cut.
    """
    values = np.empty((len(entry["participants"]), block.shape[1]))
    term = np.empty(block.shape[1])
    for value, participant in zip(values, entry["participants"], strict=True):
        own = entry["first_level"][participant]
        for number, (image, weight) in enumerate(zip(own["images"], own["weights"], strict=True)):
            # The type is named: float32 times a Python number would be rounded to float32.
            np.multiply(block[image], weight, out=term if number else value, dtype=np.float64)
            if number:
                value += term
    return values


def fit_block(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Fit one range of voxels: participants' coefficients, then the group model of each."""
    spec, _ = spec_of(unit)
    manifest = checked_manifest(store, spec)
    design = read_design(store, unit.inputs["design"])
    rows = rows_of(manifest, [(i["participant_id"], i["session_id"], i["digest"]) for i in design["images"]])
    tissue = load_tissue_mask(unit, store)
    start, stop = unit.params["start"], unit.params["stop"]
    prefix = fit_prefix(design["model"], design["stack"])
    out = _Buffers(design, stop - start)
    for first in range(start, stop, spec.block_voxels):
        last = min(first + spec.block_voxels, stop)
        block = read_block(store, manifest, rows, first, last)
        here = slice(first - start, last - start)
        out.n[here] = count_finite(block)
        valid = out.n[here] == len(rows)
        if tissue is not None:
            valid &= tissue[first:last]
        inside = np.flatnonzero(valid)
        for at in range(0, inside.size, PANEL_VOXELS):
            chosen = inside[at : at + PANEL_VOXELS]
            out.fit(design, columns(block, chosen), chosen + (first - start))
        del block  # before the next one is read
    out.write(store, prefix, unit.params["start"])
    return {"voxels": int(out.valid.sum()), "constant": int(out.constant), "not_finite": int((out.n < len(rows)).sum())}


def columns(block: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return some columns, ascending; of neighbours no copy is made."""
    first, last = int(chosen[0]), int(chosen[-1])
    return block[:, first : last + 1] if last - first + 1 == chosen.size else np.take(block, chosen, axis=1)


def count_finite(block: np.ndarray) -> np.ndarray:
    """Return in how many rows each voxel is finite."""
    found = np.zeros(block.shape[1], dtype=np.int32)
    for row in block:  # a row at a time: no array of the size of the block
        found += np.isfinite(row)
    return found


class GroupBuffers:
    """Results of the group model for one range of voxels."""

    def __init__(self, design: Mapping[str, Any], voxels: int) -> None:
        tests = test_names(design)
        self.index = {(c, name): i for i, (c, name) in enumerate(tests)}
        self.coefficients = list(design["coefficients"])
        self.arrays = {kind: np.full((len(tests), voxels), np.nan) for kind in ("effect", "se", "statistic")}
        self.arrays["resms"] = np.full((len(self.coefficients), voxels), np.nan)
        self.residuals = {
            c: np.full((len(residual_rows(len(e["participants"]))), voxels), np.nan, dtype=np.float32)
            for c, e in design["coefficients"].items()
        }
        self.designs: dict[str, PreparedDesign] = {}

    def fit(
        self,
        coefficient: str,
        entry: Mapping[str, Any],
        values: np.ndarray,
        where: np.ndarray,
        whitener: np.ndarray | None = None,
        erdf: float | None = None,
    ) -> None:
        """Fit the group model of one coefficient in some voxels."""
        if not where.size:
            return
        if coefficient not in self.designs:
            self.designs[coefficient] = _whitened_design(entry, whitener)
        if whitener is not None:
            values = multiply_rows(whitener, values)
        fit = fit_ols(values, self.designs[coefficient], df=erdf)
        self.arrays["resms"][self.coefficients.index(coefficient), where] = fit.resms
        for name, test in entry["tests"].items():
            self._test(self.index[(coefficient, name)], fit, test, where)
        rows = residual_rows(len(entry["participants"]))
        self.residuals[coefficient][:, where] = fit.standardised_residuals(values, rows)

    def _test(self, row: int, fit: OLSFit, test: Mapping[str, Any], where: np.ndarray) -> None:
        weights = np.asarray(test["weights"], dtype=np.float64)
        if test["kind"] == "F":
            self.arrays["statistic"][row, where] = f_contrast(fit, weights)
            return
        effect, se, t = t_contrast(fit, weights[0])
        for kind, numbers in (("effect", effect), ("se", se), ("statistic", t)):
            self.arrays[kind][row, where] = numbers

    def write(self, store: Store, prefix: str, start: int) -> None:
        """Write the whole chunks of this range."""
        for kind, numbers in self.arrays.items():
            write_region(store, f"{prefix}/{kind}", numbers, (0, start))
        for coefficient, numbers in self.residuals.items():
            write_region(store, f"{prefix}/residual_{coefficient}", numbers, (0, start))


def _whitened_design(entry: Mapping[str, Any], whitener: np.ndarray | None) -> PreparedDesign:
    X = np.asarray(entry["X"], dtype=np.float64)
    return prepare_design(X if whitener is None else whitener @ X)


class _Buffers:
    """The arrays of one fit unit, filled block by block."""

    def __init__(self, design: Mapping[str, Any], voxels: int) -> None:
        self.design = design
        pooled = pools_variances(design["variance"], design["weights"])
        self.n = np.zeros(voxels, dtype=np.int32)
        self.valid = np.zeros(voxels, dtype=np.uint8)
        self.constant = 0
        self.values = {
            c: np.full((len(e["participants"]), voxels), np.nan, dtype=np.float32)
            for c, e in design["coefficients"].items()
        }
        self.pools = {c: make_pool(design, c) for c in design["coefficients"]} if pooled else {}
        # Where variances are pooled first, the group model is fitted later, by units of its own.
        self.group = GroupBuffers(design, 0 if pooled else voxels)

    def fit(self, design: Mapping[str, Any], block: np.ndarray, where: np.ndarray) -> None:
        """Fit some voxels; ``where`` are their places in the unit."""
        fitted = np.ones(len(where), dtype=bool)
        values = {}
        largest = np.maximum(block.max(axis=0), -block.min(axis=0)).astype(np.float64)
        for coefficient, entry in design["coefficients"].items():
            values[coefficient] = first_level(block, entry)
            self.values[coefficient][:, where] = values[coefficient]
            spread = values[coefficient].max(axis=0) - values[coefficient].min(axis=0)
            # A constant voxel's coefficients are 0 but for rounding where people came on different days; noise of
            # rounding has a t like any other.
            weights = max(float(np.abs(own["weights"]).sum()) for own in entry["first_level"].values())
            fitted &= spread > ROUNDING * weights * largest
        self.constant += int((~fitted).sum())
        varying = where[fitted]
        self.valid[varying] = 1
        for coefficient, entry in design["coefficients"].items():
            own = values[coefficient] if fitted.all() else values[coefficient][:, fitted]
            if not self.pools:
                self.group.fit(coefficient, entry, own, varying)
            elif varying.size:
                self.pools[coefficient].add(block if fitted.all() else block[:, fitted], own)

    def write(self, store: Store, prefix: str, start: int) -> None:
        write_region(store, f"{prefix}/valid", self.valid, (start,))
        write_region(store, f"{prefix}/n", self.n, (start,))
        for coefficient in list(self.values):  # each is released when it is written
            write_region(store, f"{prefix}/value_{coefficient}", self.values.pop(coefficient), (0, start))
        if not self.pools:
            self.group.write(store, prefix, start)
        for coefficient, pool in self.pools.items():  # one object is one block's whole share
            write_region(
                store, f"{prefix}/pooled_{coefficient}", pool.table()[None], (start // _chunk(store, prefix), 0, 0)
            )


def _chunk(store: Store, prefix: str) -> int:
    return int(open_array(store, f"{prefix}/valid").chunks[0])


def fit_covariance(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Estimate one covariance of the participants for the whole map from what all blocks pooled."""
    design = read_design(store, unit.inputs["design"])
    tree = covariance_of(store, design, unit.places["blocks"])
    store.write_bytes(unit.outputs[0], json.dumps(tree).encode())
    shown = ("erdf", "h", "voxels", "between_to_within")
    return {c: {name: t[name] for name in shown if name in t} for c, t in tree.items()}


def fit_whitened(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Fit the group model of one range of voxels after whitening with the estimated covariance."""
    design = read_design(store, unit.inputs["design"])
    prefix = fit_prefix(design["model"], design["stack"])
    covariance = read_covariance(store, design)
    start, stop = unit.params["start"], unit.params["stop"]
    where = np.flatnonzero(np.asarray(open_array(store, f"{prefix}/valid")[start:stop]))
    group = GroupBuffers(design, stop - start)
    for coefficient, entry in design["coefficients"].items():
        values = np.asarray(open_array(store, f"{prefix}/value_{coefficient}")[:, start:stop], dtype=np.float64)[
            :, where
        ]
        own = covariance[coefficient]
        group.fit(coefficient, entry, values, where, np.asarray(own["W"]), own["erdf"])
    group.write(store, prefix, start)
    return {"voxels": int(where.size)}
