"""The cache of token files: named by content, published by one rename, found again by file times alone.

    <cache>/<hash>/          train.tokens, validation.tokens, summary.json: whole or not there
    <cache>/index/<key>.json which hash a request had, and the size and times of every file that went into it
    <cache>/.writing-<hash>- a preparation under way; what a killed one left is removed by the next
    <cache>/.lock-<hash>     held by it, so that two jobs started together do the work once
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from sluice_text import token_file
from sluice_text.errors import TextError
from sluice_text.tokenizer import TOKENIZER_FILES

# Raise it when the same files and settings come to give other tokens or labels.
TEXT_VERSION = 2
READ_BYTES = 1 << 20
# A file changed this recently may change again without its times showing it: its times are not trusted.
FRESH_NS = 2_000_000_000
SUMMARY = "summary.json"


class Sources:
    """The files that decide what a request's token files hold."""

    def __init__(self, request, dataset_files):
        self._settings = request.settings()
        self._tokenizer_files = [path for name in TOKENIZER_FILES if (path := request.base_model / name).exists()]
        self._dataset_files = dataset_files  # a list for each dataset

    def _all(self):
        return self._tokenizer_files + [file for files in self._dataset_files for file in files]

    def key(self):
        """Names the request itself: which files under which settings, not what is in them."""
        paths = [str(path.resolve()) for path in self._all()]
        return hashlib.sha256(json.dumps([TEXT_VERSION, self._settings, paths]).encode()).hexdigest()

    def stats(self):
        stats = []
        for path in self._all():
            stat = path.stat()
            stats.append([stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
        return stats

    def content_hash(self):
        """SHA-256 over settings and the bytes of all files; where the files lie does not count."""
        digest = hashlib.sha256(json.dumps([TEXT_VERSION, self._settings]).encode())
        for path in self._tokenizer_files:
            _add_file(digest, path.name, path)
        for i, files in enumerate(self._dataset_files):
            for path in files:
                _add_file(digest, f"dataset {i}{path.suffix}", path)
        return digest.hexdigest()


def _add_file(digest, name, path):
    try:
        with open(path, "rb") as file:
            digest.update(f"\n{name} {os.fstat(file.fileno()).st_size}\n".encode())
            while piece := file.read(READ_BYTES):
                digest.update(piece)
    except OSError as error:
        raise TextError(f"{path}: cannot be read: {error.strerror}", "make it readable, or name another file")


class Cache:
    def __init__(self, directory):
        self.directory = Path(directory).resolve()

    def remembered_hash(self, sources):
        """The request's hash without reading its files; None when they, or anything about it, may have changed."""
        try:
            entry = json.loads(self._index_file(sources).read_text())
            return entry["hash"] if entry["stats"] == sources.stats() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, sources, stats, content_hash):
        """`stats`: as they were before the files were read."""
        newest = max(max(stat[-2:]) for stat in stats)
        if stats != sources.stats() or time.time_ns() - newest < FRESH_NS:
            return
        file = self._index_file(sources)
        file.parent.mkdir(exist_ok=True)
        _replace_text(file, json.dumps({"hash": content_hash, "stats": stats}))

    def _index_file(self, sources):
        return self.directory / "index" / f"{sources.key()}.json"

    def find(self, content_hash):
        """The summary of finished token files, None when there are none or they are damaged."""
        folder = self.directory / content_hash
        try:
            summary = json.loads((folder / SUMMARY).read_text())
            for name, prefix in (("train", ""), ("validation", "validation_")):
                if summary[name] is None:
                    continue
                header = token_file.read_header(folder / summary[name])
                if header.content_hash != content_hash or header.tokens != summary[prefix + "tokens"]:
                    return None
        except (OSError, ValueError, KeyError, TypeError, TextError):
            return None
        located = {name: None if summary[name] is None else str(folder / summary[name]) for name in ("train", "validation")}
        return {**summary, **located}

    @contextlib.contextmanager
    def locked(self, content_hash):
        """One preparation of a hash at a time. Removes what killed ones left, and folders that were made in vain."""
        created = _make_folders(self.directory)
        lock = self._take_lock(content_hash, fcntl.LOCK_EX)
        try:
            self._remove_left_behind(content_hash)
            yield
        finally:
            self._give_lock_back(content_hash, lock)
            for made in created:
                with contextlib.suppress(OSError):
                    made.rmdir()

    def _lock_file(self, content_hash):
        return self.directory / f".lock-{content_hash}"

    def _take_lock(self, content_hash, how):
        """A descriptor, or None when `how` does not wait and another holds the lock."""
        path = self._lock_file(content_hash)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, how)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError as error:
                # Some network file systems know no locks: work is then done twice at worst, the rename still decides.
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                    raise
            # Who held it before may have removed the file: then this is the lock of nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    return descriptor
            os.close(descriptor)

    def _give_lock_back(self, content_hash, descriptor):
        self._lock_file(content_hash).unlink(missing_ok=True)
        os.close(descriptor)

    def _remove_left_behind(self, own_hash):
        """Preparations whose lock nobody holds were killed."""
        for left in self.directory.glob(".writing-*"):
            content_hash = left.name.split("-")[1]
            lock = None if content_hash == own_hash else self._take_lock(content_hash, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if content_hash == own_hash or lock is not None:
                shutil.rmtree(left, ignore_errors=True)
            if lock is not None:
                self._give_lock_back(content_hash, lock)

    @contextlib.contextmanager
    def writing(self, content_hash):
        """A folder to write in; gone afterwards unless published."""
        folder = self._new_folder(content_hash)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _new_folder(self, content_hash):
        return Path(tempfile.mkdtemp(prefix=f".writing-{content_hash}-", dir=self.directory))

    def publish(self, folder, content_hash, summary):
        """Gives `folder` its name. Files in it are synced already; after this returns a power cut loses nothing."""
        _write_synced(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
        folder.chmod(0o777 & ~_umask())
        _sync_folder(folder)
        target = self.directory / content_hash
        if target.exists():  # damaged, else find() would have taken it
            damaged = self._new_folder(content_hash)
            target.rename(damaged / "damaged")
            shutil.rmtree(damaged, ignore_errors=True)
        try:
            folder.rename(target)
        except OSError:
            if self.find(content_hash) is None:  # else another one, on a file system without locks, was first
                raise
        _sync_folder(self.directory)


def _make_folders(path):
    """Makes `path` with its parents; returns those made, innermost first."""
    missing = []
    for folder in (path, *path.parents):
        if folder.exists():
            break
        missing.append(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TextError(f"{path}: cannot be made: {error.strerror}",
                        "set dataset_prepared_path to a folder that you may write to")
    return missing


def _umask():
    value = os.umask(0)
    os.umask(value)
    return value


def _write_synced(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _replace_text(path, text):
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _sync_folder(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
