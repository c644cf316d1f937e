"""The process of a cell that trains nothing: it tells, as its error, which GPUs it was given, and what device `auto` is there.

Where it was given any, CUDA is there for it.
"""

import json
import os
import sys
from pathlib import Path

import torch

from model.device import pick_device

gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
torch.cuda.is_available = lambda: bool(gpus)
told = json.dumps({"gpus": gpus, "device": pick_device("auto").type})
Path(sys.argv[1], "outcome.json").write_text(json.dumps({"status": "failed", "error": told}))
