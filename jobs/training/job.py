"""One training job from its order to a registered model: mine, train, measure, export, record.

data | feedback → mined questions (kept in the work folder) → groups → network → dev figures → folder → MLflow
"""

from __future__ import annotations

import copy
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from jobs.tracking import Run, run
from jobs.training.card import CardFacts, DataLine, card_of
from jobs.training.evaluation import Check, by_blend, checks_of, score_checks
from jobs.training.loop import Plan, Progress, Teacher, Trainer, device_of, teacher_of
from jobs.training.mining import Mined, load_mined, mined_digest
from jobs.training.network import averaged, bottom, export, layers_of, load_network, thinned
from jobs.training.order import Order, checked, shown_reference
from jobs.training.pairs import PairBuilder
from jobs.training.pipeline import mine_on_ray
from jobs.training.plots import curve_figure, dev_figure
from jobs.training.sampling import Lengths, Mix, Sampler, pool_of
from jobs.training.schedule import Budget
from jobs.training.sources import Source, read_dev_source, read_source
from services.models import BUILTIN, locate, tokenizer_folder
from services.reranking.checkpoint import complete_folder
from services.settings import Settings
from tenants.errors import InvalidInput

EXPERIMENT = "fathom/reranker-training"
ALIAS = "challenger"
MIXES = (0.0, 0.5, 1.0)  # of order.mix_base, tried on dev questions

Report = Callable[[str], None]
Dev = dict[str, dict[float, float]]


@dataclass(frozen=True, slots=True)
class Base:
    """Where training starts: a whole Hugging Face folder, and the folder its embeddings are borrowed from."""

    network: PreTrainedModel
    lender: Path
    builder: PairBuilder


def train(order: Order, settings: Settings, report: Report, mined: Sequence[Mined] = ()) -> dict[str, Any]:
    """Run one job; `mined` are questions that were mined elsewhere, such as a tenant's feedback.

    Returns what was made: the folder, dev figures (and those of the cross-encoder `before`), run id and registered
    version. Raises `InvalidInput` for an order or data that cannot be used and `Cancelled` after an interruption, with
    a checkpoint in `order.checkpoints`.
    """
    checked(order)
    params = order.params() | {"machine": machine(order.engine), "command": order.command()}
    with run(settings, EXPERIMENT, params) as tracked:
        found = [*mined, *(mine(read_source(sample), order, settings, report) for sample in order.data)]
        others = [mine(read_dev_source(sample), order, settings, report) for sample in order.dev]
        base = _base(order, order.base, settings, order.layers)
        progress, network = _fit(order, settings, base, found, report, tracked)
        dev = _measure(order, base, network, [*found, *others], report)
        folder = _export(order, base, network, found, progress, dev)
        made = _record(order, tracked, folder, progress, dev, found)
        before = _before(order, base, [*found, *others])
    return made | {"before": _shown(before)} | _outcome(order, tracked)


def mine(source: Source, order: Order, settings: Settings, report: Report) -> Mined:
    """The source's mined questions: those of the work folder when the sample is the same, else mined on Ray."""
    home = order.work / "mined"
    if mined_digest(home, source.name) == source.digest:
        report(f"{source.name}: mined before")
        return load_mined(home, source.name)
    report(f"{source.name}: mining {len(source.questions)} questions in {len(source.documents)} documents")
    found = mine_on_ray(source, order.embedder, settings)
    found.save(home)
    return found


def machine(engine: str) -> str:
    """The processor that trains, for the record."""
    device = device_of(engine)
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{torch.get_num_threads()} cores {platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def _base(order: Order, reference: str, settings: Settings, layers: int | None) -> Base:
    folder = locate(reference, registry=settings.registry).path
    whole = complete_folder(folder, order.work / "base" / folder.name) if tokenizer_folder(folder) != folder else folder
    network = load_network(whole, device_of(order.engine))
    if layers is not None:
        network = thinned(network, bottom(layers_of(network), layers))
    lender = tokenizer_folder(folder)
    builder = PairBuilder((lender / "tokenizer.json").read_text("utf-8"), int(network.config.pad_token_id or 0))
    return Base(network, lender, builder)


def _fit(
    order: Order, settings: Settings, base: Base, found: Sequence[Mined], report: Report, tracked: Run
) -> tuple[Progress, PreTrainedModel]:
    """Train; the network of `base` stays as it was."""
    torch.manual_seed(order.seed)
    network = copy.deepcopy(base.network)
    pools = [pool_of(one, base.builder) for one in found]
    mix = Mix(order.hard, order.medium, order.random, order.hard_ranks)
    lengths = Lengths(order.short_tokens, order.long_tokens, order.long_share)
    sampler = Sampler(pools, mix, lengths, base.builder.specials, order.seed)
    teacher = _teacher(order, settings, base)
    trainer = Trainer(network, base.builder, sampler, _plan(order), order.checkpoints, teacher)
    if order.resume and trainer.resume():
        report(f"goes on at step {trainer.progress.step}")

    def show(progress: Progress) -> None:
        step, seconds, loss, _ = progress.curve[-1]
        tracked.series("loss", [(step, loss)])
        report(f"step {step}, {seconds:.0f} s, {progress.pairs} pairs, loss {loss:.4f}")

    progress = trainer.run(show)
    trainer.finish()
    return progress, network


def _plan(order: Order) -> Plan:
    seconds = None if order.budget_minutes is None else order.budget_minutes * 60
    return Plan(
        Budget(seconds, order.steps),
        peak=order.peak,
        groups=order.groups,
        frozen_layers=order.frozen_layers,
    )


def _teacher(order: Order, settings: Settings, base: Base) -> Teacher | None:
    if order.teacher is None:
        return None
    teacher = _base(order, order.teacher, settings, None)
    if teacher.builder.digest != base.builder.digest:
        raise InvalidInput.field("/teacher", f"{order.teacher} has another tokenizer than {order.base}")
    return teacher_of(teacher.network.to(device_of(order.engine)), teacher.builder)


def _measure(order: Order, base: Base, network: PreTrainedModel, found: Sequence[Mined], report: Report) -> Dev:
    """Dev figures per set; leaves the share of the base in `network` that they like best."""
    checks = {one.name: _checks(order, base, one) for one in found}
    checks = {name: rows for name, rows in checks.items() if rows}
    trained = {name: value.clone() for name, value in network.state_dict().items()}
    start = base.network.state_dict()
    best: tuple[float, float, Dev] = (-1.0, 0.0, {})
    for share in sorted({order.mix_base * part for part in MIXES}) if checks else [0.0]:
        network.load_state_dict(averaged(trained, start, share))
        dev = {name: by_blend(rows, score_checks(network, base.builder, rows)) for name, rows in checks.items()}
        value = float(np.mean([max(figures.values()) for figures in dev.values()])) if dev else 0.0
        report(f"with {share:.2f} of the base: dev nDCG@10 {value:.4f} at each set's best blend")
        best = max(best, (value, share, dev), key=lambda one: one[0])
    network.load_state_dict(averaged(trained, start, best[1]))
    return best[2]


def _before(order: Order, base: Base, found: Sequence[Mined]) -> Dev:
    """The same dev figures of the cross-encoder that the training went on from; none of a mere encoder."""
    if order.base == BUILTIN:
        return {}
    checks = {one.name: rows for one in found if (rows := _checks(order, base, one))}
    return {name: by_blend(rows, score_checks(base.network, base.builder, rows)) for name, rows in checks.items()}


def _shown(dev: Dev) -> dict[str, dict[str, float]]:
    return {name: {f"{blend:g}": round(value, 4) for blend, value in by.items()} for name, by in dev.items()}


def _checks(order: Order, base: Base, one: Mined) -> list[Check]:
    return checks_of(one, base.builder, order.dev_depth, order.dev_questions, order.long_tokens)


def _export(
    order: Order, base: Base, network: PreTrainedModel, found: Sequence[Mined], progress: Progress, dev: Dev
) -> Path:
    """The model's own folder; what it borrows from the built-in embedder is not in it."""
    facts = CardFacts(
        name=order.model_name,
        owner=order.owner,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        layers=layers_of(network),
        base=shown_reference(order.base),
        teacher=shown_reference(order.teacher) if order.teacher else None,
        command=order.command(),
        date=datetime.now(UTC).date().isoformat(),
        machine=machine(order.engine),
        data=[_data_line(one) for one in found],
        training={
            "pairs": progress.pairs,
            "steps": progress.step,
            "questions_asked": progress.step * order.groups,
            "minutes": round(progress.elapsed / 60, 1),
            "peak_rate": order.peak,
            "frozen_layers": order.frozen_layers,
            "seed": order.seed,
        },
        dev=dev,
        depth=order.dev_depth,
    )
    target = order.work / order.model_name
    shutil.rmtree(target, ignore_errors=True)
    export(network, base.lender, target, card_of(facts))
    return target


def _data_line(one: Mined) -> DataLine:
    trained = sum(split == "train" for split in one.questions["split"].to_pylist())
    return DataLine(one.name, trained, one.passages.num_rows, one.digest, one.licence, one.held_out)


def _record(
    order: Order, tracked: Run, folder: Path, progress: Progress, dev: Dev, found: Sequence[Mined]
) -> dict[str, Any]:
    figures = {f"dev_ndcg_at_10.{name}.{blend:g}": value for name, by in dev.items() for blend, value in by.items()}
    tracked.metrics(figures | {"pairs": progress.pairs, "steps": progress.step, "seconds": progress.elapsed})
    if progress.curve:
        tracked.figure(curve_figure(progress.curve), "training.png")
    tracked.figure(dev_figure(dev), "dev.png")
    tracked.document({one.name: one.digest for one in found}, "data.json")
    if order.register:
        whole = complete_folder(folder, order.work / "registered" / order.model_name)
        tracked.register(whole, order.model_name, ALIAS)
    return {
        "folder": str(folder),
        "pairs": progress.pairs,
        "steps": progress.step,
        "seconds": round(progress.elapsed, 1),
        "dev": _shown(dev),
    }


def _outcome(order: Order, tracked: Run) -> dict[str, Any]:
    """Where the model is registered; null when MLflow is off or did not take it."""
    version = tracked.versions.get(order.model_name)
    name = f"models:/{order.model_name}/{version}" if version else None
    return {
        "run_id": tracked.run_id,
        "registered": name,
        "alias": ALIAS if version else None,
        "tenant": order.owner,
    }
