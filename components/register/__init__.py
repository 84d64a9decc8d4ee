"""The register step: a model that passed its gates becomes a version in the registry."""
