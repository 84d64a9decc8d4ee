"""The predictor: KServe's model server around any Slipway bundle, hardened against what clients may send."""
