"""Where things that outlive a clone are kept: the cache that runtime/setup uses too."""

import os
from pathlib import Path


def cache_folder():
    named = os.environ.get("SLUICE_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice"
