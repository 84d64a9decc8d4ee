"""The contract of a rollout: guardrails, policy, and the document that a controller gets."""

from slipway.contracts.rollout.freeze import FreezeWindow
from slipway.contracts.rollout.guardrails import (
    ASSIGNMENT,
    CounterPair,
    Guardrail,
    GuardrailKind,
    HardLimit,
    Margin,
    Requirement,
)
from slipway.contracts.rollout.policy import NoData, RolloutPolicy, Step, Watch
from slipway.contracts.rollout.spec import ArmTarget, CommandKind, RolloutSpec

__all__ = [
    "ASSIGNMENT",
    "ArmTarget",
    "CommandKind",
    "CounterPair",
    "FreezeWindow",
    "Guardrail",
    "GuardrailKind",
    "HardLimit",
    "Margin",
    "NoData",
    "Requirement",
    "RolloutPolicy",
    "RolloutSpec",
    "Step",
    "Watch",
]
