"""The training loop: groups in, a better network out, within a budget, resumable to the bit on one machine.

A step's pairs are sorted by length and go through the network in a few slices of little padding; the loss sees
their logits together. bfloat16 autocast on CPU and GPU, float32 weights, fused AdamW. The last part of the run is
averaged (Izmailov et al. 2018), because a short budget ends on a noisy step.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from jobs.training.losses import margin_mse, ranking_loss
from jobs.training.network import freeze
from jobs.training.pairs import PairBuilder
from jobs.training.sampling import Group, Sampler
from jobs.training.schedule import Budget, rate
from tenants.errors import Cancelled, InvalidInput

CHECKPOINT = "checkpoint.pt"
_BETAS = (0.9, 0.98)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train. `slices` of a step are padded apart; `margin_share` weighs a teacher's margins against labels.

    Squared margins of logits are some forty times a ranking loss, hence their small share. A negative less than
    `doubt` (logit) below its positive, as the teacher sees it, is no negative for the labels.
    """

    budget: Budget
    peak: float = 7e-5
    head_factor: float = 5.0
    decay: float = 0.01
    clip: float = 1.0
    groups: int = 6
    slices: int = 3
    frozen_layers: int = 0
    margin_share: float = 0.05
    doubt: float = 0.5
    average_from: float = 0.7
    checkpoint_s: float = 120.0


@dataclass(slots=True)
class Progress:
    """Where a run stands; `curve` holds (step, seconds, loss, rate) once per `log_every` steps."""

    step: int = 0
    elapsed: float = 0.0
    pairs: int = 0
    averaged: int = 0
    curve: list[tuple[int, float, float, float]] = field(default_factory=list)


Teacher = Callable[[Sequence[Group]], Tensor]


class Trainer:
    """One network on its way. `run` ends when the budget is spent or a signal came; both leave a checkpoint."""

    def __init__(
        self,
        network: PreTrainedModel,
        builder: PairBuilder,
        sampler: Sampler,
        plan: Plan,
        folder: Path,
        teacher: Teacher | None = None,
    ) -> None:
        self.network = network
        self.device = next(network.parameters()).device
        self.progress = Progress()
        self._builder, self._sampler, self._plan, self._teacher = builder, sampler, plan, teacher
        self._folder = folder
        self._learning = freeze(network, plan.frozen_layers)
        self._optimiser = torch.optim.AdamW(_parameter_groups(network, plan), lr=plan.peak, betas=_BETAS, fused=True)
        self._mean: list[Tensor] = []
        self._stop = False

    def run(self, report: Callable[[Progress], None], every: int = 20) -> Progress:
        """Train to the end of the budget. Raises `Cancelled` after SIGINT or SIGTERM, with a checkpoint written."""
        self.network.train()
        losses: list[float] = []
        saved = began = time.monotonic() - self.progress.elapsed
        with self._signals():
            while not self._stop and (done := self._done()) < 1.0:
                losses.append(self._step(done))
                self.progress.elapsed = time.monotonic() - began
                if self.progress.step % every == 0:
                    self._log(losses, done, report)
                if time.monotonic() - saved > self._plan.checkpoint_s:
                    self.save()
                    saved = time.monotonic()
        self.save()
        if self._stop:
            raise Cancelled("training was interrupted; its checkpoint is kept, go on with --resume")
        return self.progress

    def finish(self) -> None:
        """Put the averaged weights into the network."""
        with torch.no_grad():
            for parameter, mean in zip(self._learning, self._mean, strict=False):
                parameter.copy_(mean)

    def save(self) -> None:
        """Write the checkpoint: complete beside the old one, then in its place."""
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f"{CHECKPOINT}.draft"
        state = {
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "mean": self._mean,
            "progress": {name: getattr(self.progress, name) for name in Progress.__slots__},
        }
        torch.save(state, draft)
        draft.replace(self._folder / CHECKPOINT)

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one. Raises `InvalidInput` when it is another network's."""
        path = self._folder / CHECKPOINT
        if not path.is_file():
            return False
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        try:
            self.network.load_state_dict(state["network"])
            self._optimiser.load_state_dict(state["optimiser"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InvalidInput(f"{path} is of another model ({error}); use another --work folder") from None
        self._mean = state["mean"]
        self.progress = Progress(**state["progress"])
        return True

    def _done(self) -> float:
        return self._plan.budget.progress(self.progress.elapsed, self.progress.step)

    def _step(self, done: float) -> float:
        for part in self._optimiser.param_groups:
            part["lr"] = rate(done, part["peak"])
        groups = self._sampler.groups(self.progress.step * self._plan.groups, self._plan.groups)
        loss = self._loss(groups)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._learning, self._plan.clip)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.pairs += sum(len(group.passages) for group in groups)
        if done >= self._plan.average_from:
            self._average()
        return float(loss.detach())

    def _loss(self, groups: Sequence[Group]) -> Tensor:
        logits = group_logits(self.network, self._builder, groups, self._plan.slices)
        mask = group_mask(groups).to(self.device)
        labels = torch.zeros_like(logits, dtype=torch.float32)
        labels[:, 0] = 1.0
        weights = torch.tensor([group.weight for group in groups], device=self.device)
        taught = self._teacher(groups) if self._teacher else taught_logits(groups)
        if taught is None:
            return ranking_loss(logits, labels, mask, weights)
        taught = taught.to(self.device)
        known = torch.isfinite(taught) & torch.isfinite(taught[:, :1])
        # A negative that the teacher scores like the positive is most likely an answer that nobody labelled.
        doubtful = known & (labels <= 0) & (taught > taught[:, :1] - self._plan.doubt)
        loss = ranking_loss(logits, labels, mask & ~doubtful, weights)
        return torch.lerp(loss, margin_mse(logits, taught.nan_to_num(), mask & known), self._plan.margin_share)

    @torch.no_grad()
    def _average(self) -> None:
        self.progress.averaged += 1
        if not self._mean:
            self._mean = [parameter.detach().clone() for parameter in self._learning]
        for mean, parameter in zip(self._mean, self._learning, strict=True):
            mean.lerp_(parameter, 1.0 / self.progress.averaged)

    def _log(self, losses: list[float], done: float, report: Callable[[Progress], None]) -> None:
        point = (self.progress.step, self.progress.elapsed, float(np.mean(losses)), rate(done, self._plan.peak))
        self.progress.curve.append(point)
        losses.clear()
        report(self.progress)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the loop after the step at hand."""

        def stop(*_: object) -> None:
            self._stop = True

        before = [(number, signal.signal(number, stop)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)


def device_of(engine: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises `InvalidInput` for a GPU that is not there."""
    if engine == "cuda" and not torch.cuda.is_available():
        raise InvalidInput.field("/engine", "no CUDA device is here; choose auto or cpu")
    return torch.device("cuda" if engine != "cpu" and torch.cuda.is_available() else "cpu")


def group_logits(network: PreTrainedModel, builder: PairBuilder, groups: Sequence[Group], slices: int) -> Tensor:
    """(g, m) float32 logits; places without a candidate hold 0."""
    pairs = [(group.question, passage) for group in groups for passage in group.passages]
    order = np.argsort([len(question) + len(passage) for question, passage in pairs], kind="stable")
    device = next(network.parameters()).device
    parts = []
    with torch.autocast(device.type, dtype=torch.bfloat16):
        for rows in np.array_split(order, min(slices, len(order))):
            ids, mask, types = (
                torch.from_numpy(one).to(device) for one in builder.padded([pairs[row] for row in rows])
            )
            halves = {"token_type_ids": types} if network.config.to_dict().get("type_vocab_size", 0) > 1 else {}
            parts.append(network(input_ids=ids, attention_mask=mask, **halves).logits[:, 0].float())
    flat = torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(device)]
    present = group_mask(groups).to(device)
    return torch.zeros(present.shape, device=device).masked_scatter(present, flat)


def group_mask(groups: Sequence[Group]) -> Tensor:
    """(g, m) bool: True where a group has a candidate."""
    width = max(len(group.passages) for group in groups)
    return torch.tensor([[place < len(group.passages) for place in range(width)] for group in groups])


def taught_logits(groups: Sequence[Group]) -> Tensor | None:
    """(g, m) float32 logits that came with the data, NaN = not scored; None when no group has any."""
    if not any(group.taught for group in groups):
        return None
    width = max(len(group.passages) for group in groups)
    return torch.tensor([[*group.taught, *[torch.nan] * (width - len(group.taught))] for group in groups])


def teacher_of(network: PreTrainedModel, builder: PairBuilder, slices: int = 3) -> Teacher:
    """A network's logits of each step's own groups."""
    network.eval()

    @torch.no_grad()
    def score(groups: Sequence[Group]) -> Tensor:
        return group_logits(network, builder, groups, slices)

    return score


def _parameter_groups(network: PreTrainedModel, plan: Plan) -> list[dict[str, Any]]:
    """The head is new, so it learns faster; biases and norms do not decay."""
    found: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            head = any(part in f".{name}" for part in (".classifier.", ".pooler.", ".head.", ".score."))
            key = (plan.peak * (plan.head_factor if head else 1.0), plan.decay if parameter.ndim > 1 else 0.0)
            found.setdefault(key, []).append(parameter)
    return [{"params": rows, "lr": peak, "peak": peak, "weight_decay": decay} for (peak, decay), rows in found.items()]
