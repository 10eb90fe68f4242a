"""Who gets which arm: salted hashes, so that every replica, restart and ramp agrees without talking. Pure.

    number(salt, purpose, unit) = the first 53 bits of blake3(salt ‖ purpose ‖ unit), over 2^53: uniform in [0, 1)

    in the holdout     number("holdout") < holdout           never takes part, whatever the ramp
    enrolled           number("ramp") < ramp                  raising the ramp only adds units
    arm                number("arm") falls into the arm's share of [0, 1)

The three numbers are independent, so a unit keeps its arm over every change of the ramp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from services.experiments.spec import Spec, Unit

UNIT_CHARS = 32
_STEPS = float(1 << 53)


def number(salt: str, purpose: str, unit: str) -> float:
    """See the module."""
    digest = blake3(f"{salt}\0{purpose}\0{unit}".encode("utf-8", "replace")).digest(8)
    return (int.from_bytes(digest, "big") >> 11) / _STEPS


def shares(spec: Spec) -> npt.NDArray[np.float64]:
    """(k,) float64: P(arm), in the order of the arms."""
    weights = np.array([arm.share for arm in spec.arms], np.float64)
    share: npt.NDArray[np.float64] = weights / weights.sum()
    return share


def arm_of(spec: Spec, salt: str, ramp: float, unit: str) -> int | None:
    """The place of the unit's arm in `spec.arms`; None = it does not take part."""
    if number(salt, "holdout", unit) < spec.holdout or number(salt, "ramp", unit) >= ramp:
        return None
    edges = np.cumsum(shares(spec))[:-1]
    return int(np.searchsorted(edges, number(salt, "arm", unit), side="right"))


def unit_of(kind: Unit, tenant: str, user: str | None, session: str | None, request: str) -> tuple[str, bool]:
    """(the unit's own name, whether it is known by more than this request).

    A question that does not say who asks is its own unit: it is randomised by itself and sticks to nothing.
    """
    named: Sequence[tuple[str, str | None]] = {
        "user": (("user", user), ("session", session)),
        "session": (("session", session), ("user", user)),
        "tenant": (("tenant", tenant),),
        "request": (),
    }[kind]
    for what, name in named:
        if name:
            return f"{tenant}\0{what}\0{name}", True
    return f"{tenant}\0request\0{request}", False


def unit_digest(unit: str) -> str:
    """What logs keep of a unit: 128 bits of blake3, hex; the same over all experiments, so that its past can be met."""
    return blake3(unit.encode("utf-8", "replace")).hexdigest()[:UNIT_CHARS]
