"""From a tenant's scope to the scope of the variant that answers one question.

    champion (what was promoted) → the experiment's arm, if the question's unit takes part → configuration

Configurations are merged once per variant and remembered. Knows no HTTP and no Serve.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from services.contracts import Question
from services.experiments.assignment import arm_of, shares, unit_digest, unit_of
from services.experiments.spec import Spec, overridden, parse_spec
from tenants.config import TenantConfig
from tenants.scope import TenantScope, Trial, Variant

_KEPT = 1_024
PLAIN = "default"  # the variant that changes nothing
Value = TypeVar("Value")


class Variants:
    """One per process. What it remembers is a function of what it is given: nothing has to be told of a change."""

    def __init__(self) -> None:
        self._specs: OrderedDict[str, Spec] = OrderedDict()
        self._configs: OrderedDict[Hashable, tuple[TenantConfig, TenantConfig]] = OrderedDict()

    def chosen(self, scope: TenantScope, question: Question, request: str) -> TenantScope:
        """The scope that answers this question; its `variant` says which one that is, and of whom.

        `request` names the question where nobody is named who asks. Interleaving and shadows are the control's scope
        with the other arm's as its `rival`.
        """
        serving, trial = self.champion(scope), scope.trial
        spec = None if trial is None else self.spec(trial)
        unit, known = unit_of(spec.unit if spec else "user", scope.uid, question.user, question.session, request)
        digest = unit_digest(unit) if known or spec is not None else ""
        place = None if trial is None or spec is None else arm_of(spec, trial.salt, trial.ramp, unit)
        if trial is None or spec is None or place is None:
            return replace(serving, variant=replace(serving.variant, unit=digest))
        if spec.kind == "ab":
            arm = spec.arms[place].name
            return self._arm(serving, trial, spec, arm, digest, float(shares(spec)[place]))
        control, rival = (self._arm(serving, trial, spec, arm.name, digest, 1.0) for arm in spec.arms)
        return replace(control, rival=rival)

    def champion(self, scope: TenantScope) -> TenantScope:
        """The scope under what was promoted last; the plain configuration where nothing was.

        That one has a name only where there is, or was, something to tell it from.
        """
        champion = scope.champion
        if champion is None or champion.variant is None:
            known = champion is not None or scope.trial is not None
            return replace(scope, variant=Variant(PLAIN)) if known else scope
        config = self._config((scope.uid, champion.number), champion.overrides, scope.config)
        return replace(scope, config=config, variant=Variant(champion.variant))

    def every(self, scope: TenantScope) -> list[TenantScope]:
        """The champion's scope and each arm's of the experiment that runs."""
        serving, trial = self.champion(scope), scope.trial
        if trial is None:
            return [serving]
        spec = self.spec(trial)
        return [serving, *(self._arm(serving, trial, spec, arm.name, "", 1.0) for arm in spec.arms)]

    def _arm(
        self, serving: TenantScope, trial: Trial, spec: Spec, name: str, unit: str, propensity: float
    ) -> TenantScope:
        """`serving` (the champion's) with an arm's overrides laid over it."""
        config = self._config((serving.uid, trial.salt, name), spec.arm(name).overrides, serving.config)
        told = Variant(spec.variant(name), spec.name, name, unit, propensity, spec.kind)
        return replace(serving, config=config, variant=told)

    def spec(self, trial: Trial) -> Spec:
        """The experiment's spec, read once."""
        held = self._specs.get(trial.salt)
        return held if held is not None else _keep(self._specs, trial.salt, parse_spec(trial.spec))

    def _config(self, key: Hashable, overrides: Mapping[str, Any], config: TenantConfig) -> TenantConfig:
        if not overrides:
            return config
        held = self._configs.get(key)
        if held is None or held[0] != config:  # the tenant's own configuration has changed since
            held = _keep(self._configs, key, (config, overridden(config, overrides)))
        return held[1]


def _keep(known: OrderedDict[Any, Value], key: Hashable, value: Value) -> Value:
    known[key] = value
    if len(known) > _KEPT:
        known.popitem(last=False)
    return value
