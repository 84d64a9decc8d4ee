"""How active a user is: events, different items, ratings given, how recently."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from slipway.feature_store.views.definition import Feature, FeatureView, Windows, suffix
from slipway.feature_store.views.timeline import MICROSECONDS_PER_DAY, Timeline

NEVER_DAYS = 365.0


def user_activity(windows: Windows) -> FeatureView:
    """Returns the view: counts and mean rating over each window and all time, recency, and the span of activity."""
    features = [feature for window in (*windows, None) for feature in _over(window)]
    features += [
        Feature(
            "days_since_last_event",
            lambda timeline: timeline.days_since(timeline.last_time()),
            default=NEVER_DAYS,
            description="Days since the user's last event.",
        ),
        Feature("active_days", _active_days, description="Days between the user's first and last event."),
    ]
    return FeatureView("user_activity", "user", tuple(features))


def _active_days(timeline: Timeline) -> Any:
    return (timeline.last_time() - timeline.first_time()) / MICROSECONDS_PER_DAY


def _over(window: timedelta | None) -> tuple[Feature, ...]:
    end, when = suffix(window), "ever" if window is None else f"in {suffix(window)[1:]}"
    return (
        Feature(f"events{end}", lambda timeline: timeline.count(window), "int64", 0, f"Events of the user {when}."),
        Feature(
            f"distinct_items{end}",
            lambda timeline: timeline.distinct("item", window),
            "int64",
            0,
            f"Different items {when}.",
        ),
        Feature(
            f"mean_rating{end}",
            lambda timeline: timeline.mean("rating", window),
            description=f"Mean rating given {when}; the mean weight where the data has no ratings.",
        ),
    )
