"""A study's arrays in a notebook: labelled, read as they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxcloud.errors import CorruptStoreError, nearest
from voxcloud.plan.paths import fit_prefix
from voxcloud.schema import stack_name
from voxcloud.storage.manifest import latest_in, verify_manifest
from voxcloud.storage.stack import GROUP, VALUES, VOXEL_INDEX
from voxcloud.storage.store import Store, open_store

if TYPE_CHECKING:
    import nibabel as nib
    import xarray as xr


def open_stack(output: str | Path, map_name: str, label: str = "") -> xr.DataArray:
    """Return the images of one map and label as a labelled array that is read as it is needed.

    Parameters
    ----------
    output
        Output folder of a study.
    map_name, label
        E.g. ``"R1map"``, ``"GM"``.

    Returns
    -------
    xarray.DataArray
        Dimensions (``image``, ``voxel``), the study's images of today sorted by participant and session; coordinates
        ``participant_id``, ``session_id`` and ``voxel_index`` (position in the flattened grid, C order); attributes
        ``units``, ``affine`` (voxel to RAS+ mm) and ``shape``. NaN where an image has no value.

    Raises
    ------
    CorruptStoreError
        If there is no such stack, or a shard is not what the manifest says.
    """
    store = open_store(output)
    prefix = _stack_of(store, stack_name(map_name, label))
    manifest = latest_in(store, prefix)
    if manifest is None:
        raise CorruptStoreError(f"{prefix}: expected a manifest, found none. Run the study again, which writes it.")
    verify_manifest(store, manifest)
    group = _open(store, f"{prefix}/{GROUP}")
    live = sorted((r for r in manifest.rows if r.live), key=lambda r: (r.participant_id, r.session_id))
    values: xr.DataArray = group[VALUES].isel(image=[r.row for r in live])
    values = values.assign_coords(
        participant_id=("image", [r.participant_id for r in live]),
        session_id=("image", [r.session_id for r in live]),
        voxel_index=("voxel", np.asarray(group[VOXEL_INDEX])),
    )
    values.attrs |= {k: group.attrs[k] for k in ("map", "label", "units", "space", "affine", "shape")}
    values.name = stack_name(map_name, label)
    return values


def open_fit(output: str | Path, model: str, map_name: str, label: str = "") -> xr.Dataset:
    """Return a group model's arrays, labelled.

    Returns
    -------
    xarray.Dataset
        ``effect``, ``se``, ``statistic`` (``test``, ``voxel``), the coordinate ``test`` being ``coefficient:contrast``;
        ``resms`` (``coefficient``, ``voxel``); ``value_<coefficient>`` (``participant_<coefficient>``, ``voxel``), each
        participant's coefficient; ``valid`` and ``n`` (``voxel``), the analysis mask and the images with a value.
        Coordinate ``voxel_index``; attributes ``affine`` and ``shape``. Residuals are left out.

    Raises
    ------
    CorruptStoreError
        If the study has no such fit.
    """
    store = open_store(output)
    stack = stack_name(map_name, label)
    prefix = fit_prefix(model, stack)
    if not store.exists(f"{prefix}/zarr.json"):
        have = sorted({p.split("/")[1].removeprefix("model-") for p in store.list("fits")})
        raise CorruptStoreError(
            f"{output}: expected a fit of model {model} on {stack}, found none.{nearest(model, have)} "
            f"Models with fits: {', '.join(have) or 'none'}. Run the study."
        )
    group = _open(store, prefix)
    group = group.drop_vars([v for v in group.variables if str(v).startswith(("residual_", "pooled_"))])
    people: dict[str, Any] = group.attrs["participants"]
    for coefficient, participants in people.items():
        own = f"participant_{coefficient}"
        group[f"value_{coefficient}"] = group[f"value_{coefficient}"].rename(participant=own)
        group = group.assign_coords({own: participants})
    index = _open(store, f"{_stack_of(store, stack)}/{GROUP}")[VOXEL_INDEX]
    for values in group.data_vars.values():
        values.attrs |= {k: group.attrs[k] for k in ("affine", "shape")}
    return group.assign_coords(
        test=[":".join(names) for names in group.attrs["tests"]],
        coefficient=list(people),
        voxel_index=("voxel", np.asarray(index)),
    )


def to_nifti(values: xr.DataArray) -> nib.Nifti1Image:
    """Return one row over voxels of ``open_stack`` or ``open_fit`` as an image in its template space.

    Parameters
    ----------
    values
        Dimension (``voxel``,), with the coordinate ``voxel_index`` and the attributes ``affine`` and ``shape``.

    Returns
    -------
    nibabel.Nifti1Image
        float32, NaN outside the mask.

    Raises
    ------
    CorruptStoreError
        If the array is not over voxels, or does not say which grid it is on.
    """
    import nibabel as nib

    missing = [name for name in ("affine", "shape") if name not in values.attrs]
    if values.dims != ("voxel",) or "voxel_index" not in values.coords or missing:
        raise CorruptStoreError(
            f"expected one row over voxels with voxel_index, affine and shape, found dimensions {values.dims}"
            f"{' without ' + ', '.join(missing) if missing else ''}. Select one image or test, e.g. .isel(image=0)."
        )
    volume = np.full(int(np.prod(values.attrs["shape"])), np.nan, dtype=np.float32)
    volume[values["voxel_index"].to_numpy()] = values.to_numpy()
    image = nib.Nifti1Image(volume.reshape(values.attrs["shape"]), np.asarray(values.attrs["affine"], dtype=float))
    image.set_sform(image.affine, 4)
    image.set_qform(image.affine, 4, strip_shears=False)
    return image


def _open(store: Store, prefix: str) -> xr.Dataset:
    import xarray as xr

    group: xr.Dataset = xr.open_zarr(store.zarr_store(prefix), consolidated=False, zarr_format=3, chunks={})
    return group


def _stack_of(store: Store, name: str) -> str:
    """Return the prefix of the newest stack of a name; another mask makes another stack beside it."""
    paths = store.list(f"stacks/{name}")
    manifests = [p for p in paths if p.rpartition("/")[2].startswith("manifest-")]
    if not manifests:
        have = sorted({p.split("/")[1] for p in store.list("stacks")})
        raise CorruptStoreError(
            f"{store.url}: expected a stack {name}, found none.{nearest(name, have)} "
            f"Stacks: {', '.join(have) or 'none'}. Run the study."
        )
    return max(manifests, key=lambda p: store.modified(p) or 0.0).rpartition("/")[0]
