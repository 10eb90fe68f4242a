"""OpenVINO's first arrays in a process, met by several threads at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, sys, threading
import numpy as np
from services.embedding.native import openvino
import openvino.opset15 as ops

def request():
    ids = ops.parameter([-1, -1], openvino.Type.i64)
    model = openvino.Model([ops.result(ops.convert(ids, "f32"))], [ids], "copy")
    return openvino.Core().compile_model(model, "CPU").create_infer_request()

def first(request):
    while not started:
        pass
    request.start_async({0: np.ones((2, 8), np.int64)})
    request.wait()
    sums.append(float(request.get_output_tensor().data.sum()))

started, sums = [], []
threads = [threading.Thread(target=first, args=(request(),), daemon=True) for _ in range(4)]
sys.setswitchinterval(1e-6)  # whoever gives the interpreter's lock away loses it to another thread
for thread in threads:
    thread.start()
started.append(True)
for thread in threads:
    thread.join()
print(sums)
"""


def test_the_first_arrays_of_several_threads_do_not_stop_the_process() -> None:
    """With `import openvino` instead, this program stands still every time."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    assert ran.stdout.strip() == "[16.0, 16.0, 16.0, 16.0]"
