"""Random models that benchmarks share: made once per shape, kept in Sluice's cache folder."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def cache_folder():
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SLUICE_CACHE") or Path(cache) / "sluice")


def random_model(shape, dtype="bf16"):
    """The directory of a model of configs/model/<shape>; the script that makes it imports torch, this does not."""
    model = cache_folder() / "models" / (f"{shape}-random" if dtype == "bf16" else f"{shape}-random-{dtype}")
    if not model.exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, HERE / "make_random_model.py", HERE / shape, model, "--dtype", dtype],
                       check=True)
    return model
