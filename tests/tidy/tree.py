"""The files that the rules look at: what git tracks or would track; without git, all but build folders and caches."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

IGNORED_FOLDERS = {".git", "build", "__pycache__", ".cache", ".ruff_cache"}


@dataclass(frozen=True)
class Finding:
    path: str
    line: int
    text: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.text}"


class Tree:
    """Paths are strings relative to the root, with forward slashes."""

    def __init__(self, root):
        self.root = Path(root).resolve()
        self._texts = {}
        has_git = (self.root / ".git").exists() and shutil.which("git")
        self.paths = sorted(self._tracked() if has_git else self._walked())
        self.folders = {str(parent) for path in self.paths for parent in Path(path).parents}

    def _tracked(self):
        # The clone may belong to someone else (a container, a shared checkout): git refuses to read it unless told.
        command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout
        return {path for path in listed.split("\0") if path and (self.root / path).is_file()}

    def _walked(self):
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]
            yield from (str((Path(folder) / name).relative_to(self.root)) for name in names)

    def select(self, *suffixes):
        return [path for path in self.paths if path.endswith(suffixes)]

    def text(self, path):
        """The file's text, empty for a binary one."""
        if path not in self._texts:
            content = (self.root / path).read_bytes()
            self._texts[path] = "" if b"\0" in content else content.decode("utf-8", errors="replace")
        return self._texts[path]

    def lines(self, path):
        """Pairs of line number and line."""
        return enumerate(self.text(path).split("\n"), start=1)
