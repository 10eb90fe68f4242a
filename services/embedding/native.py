"""OpenVINO, ready for threads: whoever needs it imports it from here.

The first array that its binding meets in a process makes it look NumPy up in a static initialiser, which gives the
interpreter's lock away. A second thread that comes there meanwhile waits for the initialiser with that lock in its
hand, and the process stands still for good. Here one thread does it, behind Python's import lock.
"""

from __future__ import annotations

import numpy as np
import openvino as openvino

openvino.Tensor(np.zeros(1, np.float32)).data.sum()
