"""What went before between one user and one item. Exists at label time only: pairs are too many to keep online."""

from __future__ import annotations

from datetime import timedelta

from slipway.feature_store.views.definition import Feature, FeatureView, Windows, suffix

NEVER_DAYS = 365.0


def interaction(windows: Windows) -> FeatureView:
    """Returns the view: earlier events of the pair over each window and all time, and how recent the last is."""
    features = [_events(window) for window in (*windows, None)]
    features.append(
        Feature(
            "days_since_last_event",
            lambda timeline: timeline.days_since(timeline.last_time()),
            default=NEVER_DAYS,
            description="Days since the user's last event with this item.",
        )
    )
    return FeatureView("interaction", "interaction", tuple(features))


def _events(window: timedelta | None) -> Feature:
    end, when = suffix(window), "ever" if window is None else f"in {suffix(window)[1:]}"
    return Feature(
        f"events{end}", lambda timeline: timeline.count(window), "int64", 0, f"Events of the user with the item {when}."
    )
