"""How much an item is asked for: events, different users, ratings received, how old and how recent."""

from __future__ import annotations

from datetime import timedelta

from slipway.feature_store.views.definition import Feature, FeatureView, Windows, suffix

NEVER_DAYS = 365.0


def item_popularity(windows: Windows) -> FeatureView:
    """Returns the view: counts and mean rating over each window and all time, recency and age."""
    features = [feature for window in (*windows, None) for feature in _over(window)]
    features += [
        Feature(
            "days_since_last_event",
            lambda timeline: timeline.days_since(timeline.last_time()),
            default=NEVER_DAYS,
            description="Days since the item's last event.",
        ),
        Feature(
            "days_since_first_event",
            lambda timeline: timeline.days_since(timeline.first_time()),
            description="Days since the item's first event.",
        ),
    ]
    return FeatureView("item_popularity", "item", tuple(features))


def _over(window: timedelta | None) -> tuple[Feature, ...]:
    end, when = suffix(window), "ever" if window is None else f"in {suffix(window)[1:]}"
    return (
        Feature(f"events{end}", lambda timeline: timeline.count(window), "int64", 0, f"Events of the item {when}."),
        Feature(
            f"distinct_users{end}",
            lambda timeline: timeline.distinct("user", window),
            "int64",
            0,
            f"Different users {when}.",
        ),
        Feature(
            f"mean_rating{end}",
            lambda timeline: timeline.mean("rating", window),
            description=f"Mean rating received {when}; the mean weight where the data has no ratings.",
        ),
    )
