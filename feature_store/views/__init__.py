"""Feature views: what is known of a user, an item or a pair of them at a moment."""

from slipway.feature_store.views.definition import Feature, FeatureView, ViewFunction, Windows, suffix
from slipway.feature_store.views.load import BUILT_IN, load_views
from slipway.feature_store.views.timeline import Timeline

__all__ = ["BUILT_IN", "Feature", "FeatureView", "Timeline", "ViewFunction", "Windows", "load_views", "suffix"]
