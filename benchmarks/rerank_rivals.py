"""One rival engine on one file of pairs; a process of its own, so that each gets the machine as it wants it.

    python benchmarks/rerank_rivals.py ENGINE FOLDER PAIRS.json LOGITS.npy [--threads 2]

ENGINE is
  default        sentence_transformers.CrossEncoder(FOLDER) as it comes
  openvino       its `backend="openvino"`, exported from the same weights
  openvino-int8  the same after static int8 quantisation: what `export_static_quantized_openvino_model` does
                 (nncf.quantize, transformer preset, 300 samples), calibrated on pairs of the file
  flashrank      flashrank.Ranker with the same weights, exported to ONNX and quantised dynamically, as its models are
PAIRS.json holds [[query, passage], …], pairs of one query side by side. Needs no part of Fathom, so that it runs in
another environment: sentence-transformers with optimum-intel and nncf for openvino, flashrank and onnx for flashrank.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

Pairs = list[tuple[str, str]]
Predict = Callable[[Pairs], Any]

CALIBRATION_PAIRS = 300
FLASHRANK_NAME = "ms-marco-MiniLM-L-12-v2"  # a name that its runtime knows; folder and weights are ours
PACKAGES = ("sentence-transformers", "optimum-intel", "nncf", "openvino", "flashrank", "onnxruntime", "torch")
TIMED = 2


def main() -> None:
    options = _parser().parse_args()
    import torch

    torch.set_num_threads(options.threads)
    pairs: Pairs = [(query, passage) for query, passage in json.loads(options.pairs.read_text("utf-8"))]
    with tempfile.TemporaryDirectory(prefix="fathom-rival-") as home:
        predict = ENGINES[options.engine](options.folder, Path(home), pairs)
        predict(pairs[:64])
        times = []
        for _ in range(TIMED):
            start = time.perf_counter()
            logits = np.asarray(predict(pairs), np.float32)
            times.append(time.perf_counter() - start)
    np.save(options.logits, logits.reshape(-1))
    versions = {name: version for name in PACKAGES if (version := _version(name))}
    print(json.dumps({"pairs_per_s": round(len(pairs) / min(times), 1), "versions": versions}))


def _default(folder: Path, home: Path, pairs: Pairs) -> Predict:
    from sentence_transformers import CrossEncoder

    return _raw(CrossEncoder(str(folder)))


def _openvino(folder: Path, home: Path, pairs: Pairs) -> Predict:
    from sentence_transformers import CrossEncoder

    return _raw(CrossEncoder(_copied(folder, home), backend="openvino"))


def _openvino_int8(folder: Path, home: Path, pairs: Pairs) -> Predict:
    import nncf
    import openvino
    from sentence_transformers import CrossEncoder

    whole = CrossEncoder(_copied(folder, home), backend="openvino")
    whole.save_pretrained(str(home / "exported"))
    (graph,) = (home / "exported").rglob("openvino_model.xml")
    chosen = [pairs[row] for row in np.random.default_rng(0).permutation(len(pairs))[:CALIBRATION_PAIRS]]
    encoded = [dict(whole.tokenizer([pair], truncation=True, return_tensors="np")) for pair in chosen]
    small = nncf.quantize(
        openvino.Core().read_model(graph),
        nncf.Dataset(encoded),
        subset_size=len(encoded),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    openvino.save_model(small, graph.with_name("openvino_model_qint8_quantized.xml"), compress_to_fp16=False)
    name = "openvino/openvino_model_qint8_quantized.xml" if graph.parent.name == "openvino" else None
    options = {"file_name": name or "openvino_model_qint8_quantized.xml"}
    return _raw(CrossEncoder(str(home / "exported"), backend="openvino", model_kwargs=options))


def _flashrank(folder: Path, home: Path, pairs: Pairs) -> Predict:
    from flashrank import Ranker, RerankRequest
    from flashrank.Config import model_file_map

    place = Path(shutil.copytree(folder, home / FLASHRANK_NAME))
    _exported(folder, home / "plain.onnx", place / model_file_map[FLASHRANK_NAME])
    ranker = Ranker(model_name=FLASHRANK_NAME, cache_dir=str(home), log_level="ERROR")

    def predict(asked: Pairs) -> list[float]:
        scores: list[float] = []
        for query, group in groupby(asked, key=lambda pair: pair[0]):
            passages = [{"id": number, "text": text} for number, (_, text) in enumerate(group)]
            ranked = ranker.rerank(RerankRequest(query=query, passages=passages))
            scores += [float(row["score"]) for row in sorted(ranked, key=lambda row: row["id"])]
        share = np.clip(np.array(scores), 1e-7, 1 - 1e-7)
        return list(np.log(share / (1 - share)))

    return predict


def _exported(folder: Path, plain: Path, quantised: Path) -> None:
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(str(folder), attn_implementation="eager").eval()
    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = torch.ones((2, 16), dtype=torch.int64)
    axes = {name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}}
    torch.onnx.export(
        _Logits(model), (example, example, example * 0), str(plain),
        input_names=names, output_names=["logits"], dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    quantize_dynamic(str(plain), str(quantised), weight_type=QuantType.QInt8)


def _Logits(model: Any) -> Any:  # noqa: N802 - reads as the class that it makes
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> Any:
            # As scores to add: the exporter cannot trace how transformers makes them of a mask.
            added = (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min
            return self.model(input_ids=ids, attention_mask=added, token_type_ids=types).logits

    return Logits()


def _raw(model: Any) -> Predict:
    import torch

    return lambda pairs: model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)


def _copied(folder: Path, home: Path) -> str:
    return str(shutil.copytree(folder, home / "folder", dirs_exist_ok=True))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


ENGINES: dict[str, Callable[[Path, Path, Pairs], Predict]] = {
    "default": _default,
    "openvino": _openvino,
    "openvino-int8": _openvino_int8,
    "flashrank": _flashrank,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("logits", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    main()
