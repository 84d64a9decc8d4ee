"""Families by name, and models to and from bundles. A family of the user's own is named `module:Class`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.contracts.bundle import INDEX, WEIGHTS, BundleManifest, Counts, read_bundle, write_bundle
from slipway.contracts.errors import BundleError, UsageError
from slipway.models.ids import IdIndex
from slipway.models.interface import Catalogue, Recommender
from slipway.models.seen import SeenItems
from slipway.models.tensors import read_tensors, write_tensors

FAMILIES = {
    "popularity": "slipway.models.popularity:Popularity",
    "matrix_factorization": "slipway.models.matrix_factorization.model:MatrixFactorization",
    "neural_collaborative_filtering": "slipway.models.neural.model:NeuralCollaborativeFiltering",
}


def load_family(name: str, base: Path | None = None) -> type[Recommender]:
    """Returns the class of a family.

    Args:
        name: A built-in name or `module:Class`.
        base: Folder in which a module of the user's own is looked for first.

    Raises:
        UsageError: No such family, its module cannot be imported, or its class is not a `Recommender`.
    """
    target = FAMILIES.get(name, name)
    module_name, separator, class_name = target.partition(":")
    if not separator or not module_name or not class_name:
        nearest = difflib.get_close_matches(name, FAMILIES, n=1, cutoff=0.4)
        hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
        raise UsageError(
            f"there is no model family {name!r}",
            where="model.family",
            remedy=f"{hint}Known: {', '.join(FAMILIES)}, or module:Class of your own.",
        )
    try:
        module = _import_module(module_name, base if name not in FAMILIES else None)
        family = getattr(module, class_name)
    except (ImportError, SyntaxError) as error:
        remedy = (
            f"Put {module_name} beside the project file{f' in {base}' if base else ''}, or install what it imports."
        )
        raise UsageError(
            f"the module of {name!r} cannot be imported ({error})", where="model.family", remedy=remedy
        ) from error
    except AttributeError as error:
        raise UsageError(
            f"the module {module_name} has no {class_name}", where="model.family", remedy="Check the name of the class."
        ) from error
    if not (isinstance(family, type) and issubclass(family, Recommender)):
        raise UsageError(
            f"{name} is not a subclass of slipway.models.interface.Recommender",
            where="model.family",
            remedy="Derive the class from Recommender.",
        )
    return family


def _import_module(name: str, base: Path | None) -> Any:
    if base is not None:
        folder = str(base.resolve())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        loaded = sys.modules.get(name)
        own = base.resolve() / f"{name}.py"
        if loaded is not None and own.is_file() and Path(str(getattr(loaded, "__file__", ""))) != own:
            # Another project of this process has a module of the same name.
            del sys.modules[name]
            sys.path.remove(folder)
            sys.path.insert(0, folder)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def save_model(
    model: Recommender,
    directory: Path,
    *,
    family: str | None = None,
    name: str = "",
    metrics: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> BundleManifest:
    """Writes a model into `directory` as a bundle. The same model gives the same bytes.

    Args:
        family: How to find the class again; None takes the class's own name, `module:Class` is needed for others.

    Raises:
        EnvironmentProblemError: The folder cannot be written.
    """
    catalogue = model.catalogue
    index: dict[str, NDArray[Any]] = {
        "users": catalogue.users.to_array(),
        "items": catalogue.items.to_array(),
        "seen_offsets": catalogue.seen.offsets.astype(np.int64),
        "seen_items": catalogue.seen.item_rows.astype(np.int32),
        "popularity": catalogue.popularity.astype(np.float64),
    }
    write_tensors(directory / WEIGHTS, model.to_arrays())
    write_tensors(directory / INDEX, index)
    return write_bundle(
        directory,
        family=family or model.family,
        name=name,
        counts=Counts(users=len(model.users), items=len(model.items), interactions=catalogue.interactions),
        views=model.views,
        parameters=model.parameters,
        metrics=metrics,
        lineage=lineage,
    )


def load_model(directory: Path, *, verify: bool = True, base: Path | None = None) -> Recommender:
    """Loads the model of a bundle; its arrays are views on memory maps.

    Args:
        verify: Hash every file first; pass False only right after a check.
        base: Folder of the project, for families of the user's own.

    Raises:
        BundleError: The bundle is corrupt or altered, or its family is not known here.
    """
    manifest = read_bundle(directory, verify=verify)
    try:
        family = load_family(manifest.family, base)
    except UsageError as error:
        raise BundleError(
            f"its family {manifest.family!r} is not known here: {error.what}", where=str(directory), remedy=error.remedy
        ) from error
    index, weights = read_tensors(directory / INDEX), read_tensors(directory / WEIGHTS)
    try:
        catalogue = Catalogue(
            users=IdIndex.from_array(index["users"]),
            items=IdIndex.from_array(index["items"]),
            seen=SeenItems(index["seen_offsets"], index["seen_items"]),
            popularity=index["popularity"],
            interactions=manifest.counts.interactions,
        )
        if len(catalogue.items) != manifest.counts.items or len(catalogue.users) != manifest.counts.users:
            raise ValueError("the ids do not match the counts of the manifest")
        return family.from_arrays(catalogue, manifest.views, manifest.parameters, weights)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise BundleError(
            f"its arrays do not fit the family {manifest.family!r} ({error})",
            where=str(directory),
            remedy="Train the model again with this version.",
        ) from error
