"""Steps that infer: smoothness of the residuals, then clusters, p values, maps and the people behind each cluster."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from voxcloud.bids.atlas import load_atlas
from voxcloud.bids.images import MaskGrid, load_mask
from voxcloud.bids.statmaps import write_statmap
from voxcloud.bids.templates import study_mask
from voxcloud.errors import MaskError
from voxcloud.inference.distributions import f_log_sf, t_log_sf, t_to_z, z_from_log
from voxcloud.inference.search import SearchResult, random_field_search
from voxcloud.inference.smoothness import Smoothness, estimate_smoothness
from voxcloud.models.ols import partial_r
from voxcloud.pipeline.clusters import ClusterContext, describe_cluster
from voxcloud.pipeline.fitting import read_design, test_names
from voxcloud.pipeline.permuting import BESIDE_PERMUTATIONS, PermutedSearch, is_doubtful, permute_search, replace_p
from voxcloud.pipeline.pooling import read_covariance
from voxcloud.plan.paths import STATS_F, STATS_T, fit_folder, fit_prefix, pools_variances, stat_stem
from voxcloud.plan.unit import WorkUnit
from voxcloud.report.results import effect_units
from voxcloud.schema import RESULT_SCHEMA
from voxcloud.storage.regions import open_array
from voxcloud.storage.store import Store

LOG = logging.getLogger(__name__)

NOT_PERMUTED = (
    "Something was found where random fields are doubtful, and no permutation p-values stand beside: "
    "they would take {gigabytes:.2g} GB of memory, more than is used without being asked for. "
    "Set permutation_beside: always in the model's inference section."
)
# Participants' coefficients that a search keeps decoded: its clusters ask for the same voxels again and again.
KEPT_BYTES = 24_000_000


@dataclass(frozen=True)
class FitView:
    """One coefficient of one fit, read from the store as it is needed."""

    store: Store
    design: Mapping[str, Any]
    coefficient: str
    _kept: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def prefix(self) -> str:
        """The fit's Zarr group."""
        return fit_prefix(self.design["model"], self.design["stack"])

    @property
    def folder(self) -> str:
        """What lies beside the Zarr group."""
        return fit_folder(self.design["model"], self.design["stack"])

    @property
    def entry(self) -> Mapping[str, Any]:
        """The design file's entry of the coefficient."""
        found: Mapping[str, Any] = self.design["coefficients"][self.coefficient]
        return found

    @property
    def valid(self) -> np.ndarray:
        """Analysis mask over the stack's voxels."""
        return np.asarray(open_array(self.store, f"{self.prefix}/valid")[:]).astype(bool)

    @property
    def df(self) -> float:
        """Error degrees of freedom (effective ones where variances were estimated)."""
        if self._pooled:
            return float(read_covariance(self.store, self.design)[self.coefficient]["erdf"])
        return float(len(self.entry["participants"]) - self.entry["rank"])

    @property
    def whitener(self) -> np.ndarray | None:
        """What data and design are multiplied with before the fit, or None."""
        if self._pooled:
            return np.asarray(read_covariance(self.store, self.design)[self.coefficient]["W"])
        return None

    @property
    def between_to_within(self) -> float | None:
        """Variance between people over that of a complete participant's coefficient, where weights rest on it."""
        if self.design["weights"] != "precision":
            return None
        return float(read_covariance(self.store, self.design)[self.coefficient]["between_to_within"])

    @property
    def _pooled(self) -> bool:
        return pools_variances(self.design["variance"], self.design["weights"])

    def test_row(self, kind: str, contrast: str) -> np.ndarray:
        """Return effect, se or statistic of one contrast over the stack's voxels."""
        row = test_names(self.design).index([self.coefficient, contrast])
        return np.asarray(open_array(self.store, f"{self.prefix}/{kind}")[row, :])

    def values(self, voxels: np.ndarray) -> np.ndarray:
        """Return the participants' coefficients at some voxels, shape (participants, voxels), float64."""
        return self.stored_values(voxels).astype(np.float64)

    def stored_values(self, voxels: np.ndarray) -> np.ndarray:
        """Return the same as it is stored, float32."""
        array = open_array(self.store, f"{self.prefix}/value_{self.coefficient}")
        people, width = array.shape[0], int(array.chunks[1])
        found = np.empty((people, len(voxels)), dtype=np.float32)
        for number in np.unique(voxels // width).tolist():
            own = np.flatnonzero(voxels // width == number)
            chunk = self._kept.get(number)
            if chunk is None:
                chunk = np.asarray(array[:, number * width : (number + 1) * width])
                while self._kept and sum(c.nbytes for c in self._kept.values()) + chunk.nbytes > KEPT_BYTES:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[number] = chunk
            found[:, own] = chunk[:, voxels[own] - number * width]
        return found


def smoothness(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Estimate the smoothness of the standardised residuals, slab by slab."""
    design = read_design(store, unit.inputs["design"])
    view = FitView(store, design, unit.params["coefficient"])
    grid = study_mask(unit.places["mask"])
    inside = np.flatnonzero(view.valid)
    if not inside.size:
        raise MaskError(
            f"{unit.name}: the analysis mask is empty: no voxel is finite in all {len(design['images'])} images, "
            "varies between participants and passes the tissue threshold. Check the masks section and the images' "
            "fields of view."
        )
    array = open_array(store, f"{view.prefix}/residual_{view.coefficient}")

    def read(start: int, stop: int) -> np.ndarray:
        positions = inside[start:stop]
        block: np.ndarray = np.asarray(array[:, int(positions[0]) : int(positions[-1]) + 1])
        # Still float32: the estimate takes row after row to float64.
        chosen: np.ndarray = np.take(block, positions - positions[0], axis=1)
        return chosen

    found = estimate_smoothness(
        read, array.shape[0], grid.voxel_index[inside], grid.shape, view.df, n_scans=len(view.entry["participants"])
    )
    tree = {
        "fwhm_voxels": [float(v) for v in found.fwhm_voxels],
        "fwhm_mm": list(found.fwhm_mm(voxel_sizes(grid))),
        "n_voxels_used": int(found.n_voxels_used),
        "df": view.df,
        "mask_voxels": int(inside.size),
        "nonstationarity": found.nonstationarity(),
    }
    buffer = io.BytesIO()
    np.save(buffer, found.resels_per_voxel, allow_pickle=False)
    store.write_bytes(unit.outputs[1], buffer.getvalue())
    store.write_bytes(unit.outputs[0], json.dumps(tree).encode())
    resels = np.full(len(grid.voxel_index), np.nan)
    resels[inside] = found.resels_per_voxel
    images = np.asarray(open_array(store, f"{view.prefix}/n")[:], dtype=np.float64)
    for stat, vector, words in (
        ("n", images, f"images with a value, of {len(design['images'])}; voxels with fewer were left out"),
        ("resels", resels, "resels per voxel: how rough the residuals are there"),
    ):
        image, sidecar = write_statmap(
            vector,
            grid,
            stat=stat,
            description=f"{design['model']} {view.coefficient}: {words}",
            sidecar={"Map": design["map"], "Label": design["label"], "Coefficient": view.coefficient},
        )
        path = next(p for p in unit.outputs if f"_stat-{stat}_" in p)
        store.write_bytes(path, image)
        store.write_bytes(path.replace(".nii.gz", ".json"), sidecar)
    return tree


def voxel_sizes(grid: MaskGrid) -> np.ndarray:
    """Return voxel sizes in mm."""
    return np.asarray(grid.zooms)


def inference(unit: WorkUnit, store: Store) -> Mapping[str, Any]:
    """Search one contrast in every volume and direction; write the result, the maps and who is behind each cluster."""
    design = read_design(store, unit.inputs["design"])
    view = FitView(store, design, unit.params["coefficient"])
    grid = study_mask(unit.places["mask"])
    contrast = unit.params["contrast"]
    test = view.entry["tests"][contrast]
    smooth = json.loads(store.read_bytes(f"{view.folder}/smoothness-{view.coefficient}.json"))
    resels_per_voxel = np.load(
        io.BytesIO(store.read_bytes(f"{view.folder}/resels-{view.coefficient}.npy")), allow_pickle=False
    )
    field = Smoothness(tuple(smooth["fwhm_voxels"]), smooth["n_voxels_used"], smooth["df"], resels_per_voxel)
    inside = np.flatnonzero(view.valid)
    statistic = view.test_row("statistic", contrast)[inside]
    atlas = load_atlas(**unit.places["atlas"]) if unit.places.get("atlas") else None
    maps = _write_maps(unit, store, view, grid, inside, statistic, test)
    searches = []
    volumes, warnings = _volumes(unit, grid, inside)
    for volume, roi in volumes:
        for direction in _directions(test):
            found = _search(unit, view, grid, inside, statistic, field, roi, direction, test)
            permuted = _permuted(unit, view, grid, inside, found, roi, direction, test, field)
            if unit.params["inference"]["method"] == "permutation":
                found = replace(found, warnings=())  # those of random fields concern other p values
                if permuted is not None:
                    found = replace_p(found, permuted, unit.params["inference"]["alpha"])
                    found = replace(found, warnings=(permuted.sentence(),))
            said = (*found.warnings, *_not_permuted(unit, view, found, test, field))
            warnings += [w for w in said if w not in warnings]
            context = ClusterContext(view, grid, inside, statistic, smooth, direction, test, roi, unit.params, atlas)
            searches.append(_search_tree(context, found, volume, permuted))
    if design["accepted_unequal_variance"]:
        warnings.append(
            "Participants whose missing visits inflate the variance of this coefficient were kept in a plain "
            "unweighted fit, as asked for (accept_unequal_variance): one of them can make or hide a cluster."
        )
    result = {
        "schema": RESULT_SCHEMA,
        "model": design["model"],
        "map": design["map"],
        "label": design["label"],
        "coefficient": view.coefficient,
        "contrast": contrast,
        "test": test["test"],
        "kind": test["kind"],
        "alternative": test["alternative"],
        "estimator": design["estimator"],
        "formula": design["formula"],
        "variance": design["variance"],
        "weights": design["weights"],
        "between_to_within": view.between_to_within,
        "n": len(view.entry["participants"]),
        "participants": view.entry["participants"],
        "df": view.df,
        "units": view.entry["units"],
        "fwhm_voxels": smooth["fwhm_voxels"],
        "fwhm_mm": smooth["fwhm_mm"],
        "mask_voxels": int(inside.size),
        "voxel_mm": voxel_sizes(grid).tolist(),
        "family_size": unit.params["family_size"],
        "scores": view.entry["scores"],
        "inference": unit.params["inference"],
        "warnings": warnings,
        "maps": maps,
        "searches": searches,
    }
    store.write_bytes(unit.outputs[0], json.dumps(result, allow_nan=False).encode())
    significant = sum(c["significant"] for s in searches for c in s["clusters"])
    LOG.info("%s: %d significant clusters", unit.name, significant)
    return {"significant": significant, "clusters": sum(len(s["clusters"]) for s in searches)}


def _volumes(
    unit: WorkUnit, grid: MaskGrid, inside: np.ndarray
) -> tuple[list[tuple[str, np.ndarray | None]], list[str]]:
    """Return the search volumes, and a sentence for each one that cannot be searched while others can."""
    if not unit.places["volumes"]:
        return [("whole mask", None)], []
    found: list[tuple[str, np.ndarray | None]] = []
    empty: list[str] = []
    for name, path in sorted(unit.places["volumes"].items()):
        volume = load_mask(path)
        if tuple(volume.shape) != tuple(grid.shape) or not np.allclose(volume.affine, grid.affine, atol=1e-3):
            raise MaskError(
                f"search_volumes.{name} ({path}): expected the grid of the mask, {tuple(grid.shape)}, found "
                f"{tuple(volume.shape)} or another affine. Resample it to the mask's grid (nearest neighbour)."
            )
        if not volume.mask.ravel()[grid.voxel_index[inside]].any():
            empty.append(
                f"search_volumes.{name} ({path}): expected voxels of the analysis mask ({inside.size} voxels), found "
                "none; it was not searched. Check the volume's label, or lower the threshold in masks."
            )
            continue
        found.append((name, volume.mask))
    if not found:
        raise MaskError("\n".join(f"{unit.name}: {sentence}" for sentence in empty))
    return found, empty


def _directions(test: Mapping[str, Any]) -> list[str]:
    if test["kind"] == "F":
        return ["greater"]
    return ["greater", "less"] if test["alternative"] == "two-sided" else [str(test["alternative"])]


def _search(
    unit: WorkUnit,
    view: FitView,
    grid: MaskGrid,
    inside: np.ndarray,
    statistic: np.ndarray,
    field: Smoothness,
    roi: np.ndarray | None,
    direction: str,
    test: Mapping[str, Any],
) -> SearchResult:
    settings = unit.params["inference"]
    df: Any = view.df if test["kind"] == "t" else (float(np.linalg.matrix_rank(np.asarray(test["weights"]))), view.df)
    return random_field_search(
        statistic if direction == "greater" else -statistic,
        df,
        mask3d(grid, inside),
        grid.voxel_index[inside],
        grid.affine,
        field,
        cluster_forming_p=settings["cluster_forming_p"],
        min_extent=settings["min_extent"],
        alpha=settings["alpha"],
        roi=roi,
        statistic="T" if test["kind"] == "t" else "F",
        # With permutations any threshold is valid: no p value rests on random fields.
        accept_liberal_threshold=settings["accept_liberal_threshold"] or settings["method"] == "permutation",
        nonstationary_map=str(view.design["stack"]) if _uneven_by_construction(view) else "",
    )


def _permuted(
    unit: WorkUnit,
    view: FitView,
    grid: MaskGrid,
    inside: np.ndarray,
    found: SearchResult,
    roi: np.ndarray | None,
    direction: str,
    test: Mapping[str, Any],
    field: Smoothness,
) -> PermutedSearch | None:
    """Relabel where the study asks for it, or beside random fields whose assumptions are doubtful."""
    settings = unit.params["inference"]
    instead = settings["method"] == "permutation"
    beside = unit.params["permute_beside"] == "always" or (
        unit.params["permute_beside"] == "auto" and is_doubtful(found, field, uneven=_uneven_by_construction(view))
    )
    if test["kind"] != "t" or not found.clusters or not (instead or beside):
        return None
    number = settings["permutations"] if instead else min(BESIDE_PERMUTATIONS, settings["permutations"])
    weights = np.asarray(test["weights"], dtype=np.float64)[0]
    return permute_search(
        view, grid, inside, found, roi, direction, weights, n_permutations=number, seed=settings["seed"]
    )


def _not_permuted(
    unit: WorkUnit, view: FitView, found: SearchResult, test: Mapping[str, Any], field: Smoothness
) -> list[str]:
    """Say that nothing was relabelled beside doubtful random fields, where that takes more memory than unasked for."""
    if unit.params["permute_beside"] != "too large" or test["kind"] != "t":
        return []
    if not is_doubtful(found, field, uneven=_uneven_by_construction(view)):
        return []
    return [NOT_PERMUTED.format(gigabytes=unit.params["permute_bytes"] / 1e9)]


def _uneven_by_construction(view: FitView) -> bool:
    """Modulated volume and tissue-weighted smoothing make smoothness uneven."""
    return view.design["map"] == "volume" or bool(view.design["label"])


def mask3d(grid: MaskGrid, inside: np.ndarray) -> np.ndarray:
    """Return the analysis mask on the grid."""
    flat = np.zeros(int(np.prod(grid.shape)), dtype=bool)
    flat[grid.voxel_index[inside]] = True
    return flat.reshape(grid.shape)


def _search_tree(
    context: ClusterContext, found: SearchResult, volume: str, permuted: PermutedSearch | None
) -> dict[str, Any]:
    settings = context.params["inference"]
    clusters = [describe_cluster(context, found, cluster, number) for number, cluster in enumerate(found.clusters, 1)]
    if permuted is not None:
        for cluster, p, p_peaks in zip(clusters, permuted.p_cluster, permuted.p_peaks, strict=True):
            cluster["p_permutation"] = p
            for peak, p_peak in zip(cluster["peaks"], p_peaks, strict=True):
                peak["p_permutation"] = p_peak
    family = context.params["family_size"]
    smallest = min((c["p_fwe"] for c in clusters), default=1.0)
    return {
        "direction": context.direction,
        "volume": volume,
        "n_voxels": int(found.n_voxels),
        "resels": [float(r) for r in found.resels],
        "height_threshold_t": float(found.height_threshold),
        "height_fwe": _finite(found.height_fwe),
        "height_fdr": _finite(found.height_fdr),
        "extent_fwe": int(found.extent_fwe),
        "clusters_any_size": int(found.n_clusters_all),
        "set_p": _finite(found.set_p),
        "cluster_forming_p": settings["cluster_forming_p"],
        "min_extent": settings["min_extent"],
        "alpha": settings["alpha"],
        "permutation": None if permuted is None else permuted.describe(),
        "p_fwe_min": smallest,
        "p_family_min": min(1.0, smallest * family),
        "clusters": clusters,
    }


def _finite(value: float) -> float | None:
    """Return what JSON can hold: None where no statistic reaches the level."""
    return float(value) if np.isfinite(value) else None


def _write_maps(
    unit: WorkUnit,
    store: Store,
    view: FitView,
    grid: MaskGrid,
    inside: np.ndarray,
    statistic: np.ndarray,
    test: Mapping[str, Any],
) -> dict[str, str]:
    contrast = unit.params["contrast"]
    if test["kind"] == "t":
        r, lower, upper = partial_r(statistic, view.df)
        effect = view.test_row("effect", contrast)[inside]
        se = view.test_row("se", contrast)[inside]
        numbers = {
            "t": statistic,
            "effect": effect,
            "variance": se**2,
            "z": t_to_z(statistic, view.df),
            "p": _t_p(statistic, view.df, test["alternative"]),
            "r": r,
            "rLower": lower,
            "rUpper": upper,
        }
        names: tuple[str, ...] = STATS_T
        df: float | tuple[float, float] = view.df
    else:
        df = (float(np.linalg.matrix_rank(np.asarray(test["weights"]))), view.df)
        log_p = f_log_sf(statistic, df)
        numbers = {"F": statistic, "z": z_from_log(log_p), "p": np.exp(log_p)}
        names = STATS_F
    stem = stat_stem(view.design["model"], view.design["map"], view.design["label"], view.coefficient, contrast)
    written: dict[str, str] = {}
    for stat in names:
        vector = np.full(len(grid.voxel_index), np.nan)
        vector[inside] = numbers[stat]
        path = f"{stem}_stat-{stat}_statmap.nii.gz"
        image, sidecar = write_statmap(
            vector,
            grid,
            stat=stat,
            df=df,
            description=f"{view.design['model']} {view.coefficient} {contrast}",
            sidecar={
                "Map": view.design["map"],
                "Label": view.design["label"],
                "Coefficient": view.coefficient,
                "Contrast": test["test"],
                "Alternative": test["alternative"],
                "EffectUnits": effect_units({**view.entry, "test": test["test"]}),
                "NumberOfParticipants": len(view.entry["participants"]),
            },
        )
        store.write_bytes(path, image)
        store.write_bytes(path.replace(".nii.gz", ".json"), sidecar)
        written[stat] = path
    return written


def _t_p(t: np.ndarray, df: float, alternative: str) -> np.ndarray:
    """Return the uncorrected p in the direction of the question."""
    if alternative == "two-sided":
        return np.asarray(np.minimum(1.0, 2.0 * np.exp(t_log_sf(np.abs(t), df))))
    return np.asarray(np.exp(t_log_sf(t if alternative == "greater" else -t, df)))
