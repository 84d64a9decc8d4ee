"""The project file `slipway.yaml`: its schema, and how it is read."""

from slipway.contracts.project.load import PROJECT_FILE, load_project, parse_project, project_json_schema
from slipway.contracts.project.schema import ModelSpec, Project, ServingSpec, StepSpec, TrackingSpec

__all__ = [
    "PROJECT_FILE",
    "ModelSpec",
    "Project",
    "ServingSpec",
    "StepSpec",
    "TrackingSpec",
    "load_project",
    "parse_project",
    "project_json_schema",
]
