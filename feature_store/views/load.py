"""Views by name: the built-in ones, and `module:function` of a project's own folder."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from slipway.contracts.errors import UsageError
from slipway.feature_store.views.definition import FeatureView, ViewFunction, Windows
from slipway.feature_store.views.interaction import interaction
from slipway.feature_store.views.item_popularity import item_popularity
from slipway.feature_store.views.user_activity import user_activity

BUILT_IN: dict[str, ViewFunction] = {
    "user_activity": user_activity,
    "item_popularity": item_popularity,
    "interaction": interaction,
}
_WHERE = "features.views"


def load_views(
    names: Sequence[str], windows: Windows, project_directory: Path | None = None
) -> tuple[FeatureView, ...]:
    """Returns the views that a project names.

    Args:
        names: Built-in names, or `module:function` found from `project_directory`.
        windows: How far the views look back.
        project_directory: Folder of the project file.

    Raises:
        UsageError: A name is unknown, the module cannot be imported, the function does not give a view, or two views
            have one name.
    """
    views = tuple(_load(name, windows, project_directory) for name in names)
    seen: set[str] = set()
    for view in views:
        if view.name in seen:
            raise UsageError(f"two views are called {view.name!r}", where=_WHERE, remedy="Rename one of them.")
        seen.add(view.name)
    return views


def _load(name: str, windows: Windows, project_directory: Path | None) -> FeatureView:
    if name in BUILT_IN:
        return BUILT_IN[name](windows)
    if ":" not in name:
        close = difflib.get_close_matches(name, BUILT_IN, n=1)
        raise UsageError(
            f"there is no view {name!r}",
            where=_WHERE,
            remedy=f"Did you mean {close[0]!r}?"
            if close
            else f"Built in: {', '.join(BUILT_IN)}; own: module:function.",
        )
    module_name, _, attribute = name.partition(":")
    folder = str((project_directory or Path()).resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UsageError(
            f"the view {name!r} cannot be loaded ({error})",
            where=_WHERE,
            remedy=f"There must be a module {module_name} in {folder} with a function {attribute}(windows).",
        ) from error
    try:
        view = function(windows)
    except Exception as error:
        raise UsageError(
            f"{name!r} raised {type(error).__name__}: {error}", where=_WHERE, remedy="Mend the function."
        ) from error
    if not isinstance(view, FeatureView) or not view.features or not view.name.isidentifier():
        raise UsageError(
            f"{name!r} does not give a view",
            where=_WHERE,
            remedy="Return a slipway.feature_store.views.FeatureView with a name and at least one feature.",
        )
    names = [feature.name for feature in view.features]
    taken = {"user", "item", "event_time", "as_of"}
    wrong = sorted({part for part in names if names.count(part) > 1 or part in taken})
    if wrong:
        raise UsageError(
            f"{name!r} has features whose name is taken: {', '.join(wrong)}", where=_WHERE, remedy="Rename them."
        )
    return view
