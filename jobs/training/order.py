"""What a training job is asked to do; checked before anything heavy is loaded. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.training.sources import Sample
from services.models import BUILTIN, owner_of
from tenants.errors import InvalidInput

Role = Literal["small", "large"]
Engine = Literal["auto", "cpu", "cuda"]
ROLES: tuple[Role, ...] = ("small", "large")
ENGINES: tuple[Engine, ...] = ("auto", "cpu", "cuda")
MODEL = "fathom-rerank"
_NOT_DECIDING = ("work", "resume", "register", "engine")
_REPEATED = {"data": "--data", "dev": "--dev", "tenants": "--tenant"}


@dataclass(frozen=True, slots=True)
class Order:
    """One job. Tokens count a whole pair; `hard_ranks` are fused ranks, 1-based and inclusive.

    `from_feedback` learns from what users of `tenants` judged, or of all that opted in (`pooled`).
    `base` is a model reference: an encoder, or a cross-encoder to go on from; `layers` keeps the first so many of
    its layers. `teacher` is a cross-encoder's reference whose margins are learned, too.
    `budget_minutes` and `steps`: whichever ends first. `mix_base` is the largest share of the base's own weights
    that may be averaged in at the end; dev questions choose. `register` makes the result `model_name@challenger`.
    """

    role: Role = "large"
    data: tuple[Sample, ...] = ()
    dev: tuple[Sample, ...] = ()
    from_feedback: bool = False
    tenants: tuple[str, ...] = ()
    pooled: bool = False
    base: str = BUILTIN
    layers: int | None = None
    teacher: str | None = None
    embedder: str = BUILTIN
    work: Path = Path("training")
    budget_minutes: float | None = 60.0
    steps: int | None = None
    resume: bool = False
    engine: Engine = "auto"
    seed: int = 1
    peak: float = 7e-5
    groups: int = 6
    frozen_layers: int = 0
    hard: int = 4
    medium: int = 1
    random: int = 0
    hard_ranks: tuple[int, int] = (5, 60)
    short_tokens: int = 112
    long_tokens: int = 224
    long_share: float = 0.15
    dev_questions: int = 60
    dev_depth: int = 30
    mix_base: float = 0.3
    register: bool = True

    @property
    def owner(self) -> str | None:
        """The one tenant that the result is of, and for; None = anybody's."""
        return self.tenants[0] if self.from_feedback and not self.pooled and len(self.tenants) == 1 else None

    @property
    def model_name(self) -> str:
        """The registered model that the result becomes a version of: the tenant's own, or the shared one."""
        return f"{MODEL}-{self.role}" + (f"-{self.owner}" if self.owner else "")

    @property
    def checkpoints(self) -> Path:
        """Where the run is kept on its way: apart per tenant, so that nobody goes on from another's weights."""
        return self.work / f"of-{self.owner}" if self.owner else self.work

    def params(self) -> dict[str, Any]:
        """Everything that decides the result, for the run's record; folders by name, several tenants by number."""
        told = {name: self._shown(name) for name in asdict(self) if name not in _NOT_DECIDING}
        return told if self.owner else told | {"tenants": len(self.tenants)}

    def command(self) -> str:
        """The command line that repeats this job, without what is as by default; folders by name.

        It stands in the model's card: whose feedback it was is told of a tenant's own model only.
        """
        words = ["python -m jobs.training.reranker"]
        default = Order()
        for name in asdict(self):
            value = getattr(self, name)
            private = name == "tenants" and self.owner is None
            if private or name in _NOT_DECIDING or value in (None, getattr(default, name)):
                continue
            if name in _REPEATED:
                words += [f"{_REPEATED[name]} {one}" for one in value]
            else:
                words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {self._shown(name)}"))
        return " ".join(words)

    def _shown(self, name: str) -> Any:
        value = getattr(self, name)
        if name in _REPEATED:
            return ", ".join(map(str, value))
        if name == "hard_ranks":
            return f"{value[0]}:{value[1]}"
        return shown_reference(value) if name in ("base", "teacher", "embedder") and value else value


def shown_reference(reference: str) -> str:
    """A model reference without the path of a machine: a folder is shown by its name."""
    local = reference.startswith(("/", ".", "~"))
    return Path(reference).name if local else reference


def checked(order: Order) -> Order:
    """The order itself. Raises `InvalidInput` naming what cannot be."""
    faults = {
        "/data": not order.data and not order.from_feedback and "give --data FOLDER, or --from-feedback --tenant NAME",
        "/tenant": _tenants_fault(order),
        "/budget_minutes": _budget_fault(order),
        "/steps": order.steps is not None and order.steps < 1 and "a run has at least one step",
        "/layers": order.layers is not None and order.layers < 1 and "a model has at least one layer",
        "/hard_ranks": not 1 <= order.hard_ranks[0] <= order.hard_ranks[1] and "ranks are FIRST:LAST, from 1 up",
        "/hard": order.hard + order.medium + order.random < 1 and "a group needs a negative",
        "/groups": order.groups < 1 and "a step has at least one group",
        "/peak": order.peak <= 0 and "a learning rate is more than 0",
        "/long_tokens": not 16 <= order.short_tokens <= order.long_tokens <= 512 and "tokens: 16 ≤ short ≤ long ≤ 512",
        "/mix_base": not 0 <= order.mix_base < 1 and "a share is in [0, 1)",
    }
    for pointer, fault in faults.items():
        if fault:
            raise InvalidInput.field(pointer, fault)
    return order


def check_lineage(order: Order, tenants: Collection[str]) -> None:
    """Raises `InvalidInput` for a base or teacher that learned from another tenant's feedback than `tenants`'."""
    for pointer, reference in (("/base", order.base), ("/teacher", order.teacher or "")):
        owner = owner_of(reference)
        if owner is not None and owner not in tenants:
            fault = f"{reference} is {owner}'s alone; learn from that tenant's feedback, or start elsewhere"
            raise InvalidInput.field(pointer, fault)


def _tenants_fault(order: Order) -> str:
    if not order.from_feedback:
        return "add --from-feedback to learn from it" if order.tenants or order.pooled else ""
    if order.pooled:
        return "--pooled is everybody who opted in; leave --tenant out" if order.tenants else ""
    return "" if order.tenants else "whose feedback? give --tenant NAME, or --pooled for all who opted in"


def _budget_fault(order: Order) -> str:
    if order.budget_minutes is None:
        return "" if order.steps is not None else "give a budget, or steps"
    return "" if order.budget_minutes > 0 else "a budget is more than nothing"
