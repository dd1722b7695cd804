"""The drive that every other test here relies on: what was synced is there, and what was not may be lost, torn, or late."""

import sys

import pytest
from crash import machine
from crash.machine import Crash

SEEDS = range(6)
# Replaces a file twice as databases do, then says so in a log.
WRITER = """
import os, sys
root, careful = sys.argv[1], sys.argv[2] == "careful"
def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
for version in (b"1", b"2"):
    with open(root + "/new", "wb") as file:
        file.write(version * 5000)
    if careful:
        sync(root + "/new")
    os.rename(root + "/new", root + "/file")
    if careful:
        sync(root)
    with open(root + "/log", "ab") as file:
        file.write(version)
"""


def run(tmp_path, code, *arguments, crash=None, calls=False):
    root = tmp_path / "root"
    root.mkdir(parents=True, exist_ok=True)
    return root, machine.run([sys.executable, "-c", code, root, *arguments], root, crash, calls=calls)


def after(tmp_path, code, *arguments, fault, boundary, seed):
    folder = tmp_path / f"{fault}-{boundary}-{seed}"
    folder.mkdir()
    root, ended = run(folder, code, *arguments, crash=Crash(fault, seed, boundary))
    assert ended.stopped and ended.report["boundaries"] == boundary
    return root


def contents(tmp_path, *arguments, fault):
    """Of `file`, under every seed, with the power cut before every call."""
    _, ended = run(tmp_path, WRITER, *arguments)
    return [(boundary, file.read_bytes() if (file := after(tmp_path, WRITER, *arguments, fault=fault, boundary=boundary,
                                                           seed=seed) / "file").exists() else None)
            for boundary in range(1, ended.report["boundaries"] + 1) for seed in SEEDS]


@pytest.mark.parametrize("fault", machine.POWER_FAULTS)
def test_a_file_that_is_synced_before_it_is_renamed_is_whole_whenever_power_is_lost(tmp_path, fault):
    _, ended = run(tmp_path, WRITER, "careful", calls=True)
    renamed = [i for i, call in enumerate(ended.report["calls"], 1) if call.startswith("rename")]
    allowed = {b"1" * 5000, b"2" * 5000}
    for boundary, content in contents(tmp_path, "careful", fault=fault):
        # After a rename comes the folder's sync; only behind that is the name safe.
        if boundary > renamed[1] + 1:
            assert content == b"2" * 5000
        elif boundary > renamed[0] + 1:
            assert content in allowed
        else:
            assert content in {None, *allowed}


@pytest.mark.parametrize("fault", machine.POWER_FAULTS)
def test_a_file_that_is_not_synced_is_lost_under_some_seed(tmp_path, fault):
    found = {content for _, content in contents(tmp_path, "careless", fault=fault)}
    assert None in found
    if fault != "dropped":
        # The name came through and bytes of the file did not.
        assert any(content is not None and content not in (b"1" * 5000, b"2" * 5000) for content in found), found


def test_writes_are_torn_at_sectors_and_only_there(tmp_path):
    code = """
import os, sys
fd = os.open(sys.argv[1] + "/file", os.O_RDWR | os.O_CREAT)
folder = os.open(sys.argv[1], os.O_RDONLY)
os.pwrite(fd, b"a" * 4096, 0), os.fsync(fd), os.fsync(folder)
os.pwrite(fd, b"b" * 4000, 96), os.close(folder)
os.mkdir(sys.argv[1] + "/end")
"""
    _, ended = run(tmp_path, code, calls=True)
    last = ended.report["boundaries"]
    assert ended.report["calls"][-1].startswith("mkdir")
    torn = 0
    for seed in SEEDS:
        content = (after(tmp_path, code, fault="torn", boundary=last, seed=seed) / "file").read_bytes()
        assert content[:96] == b"a" * 96 and len(content) == 4096
        sectors = [content[max(at, 96):at + 512] for at in range(0, 4096, 512)]
        assert all(set(sector) in ({ord("a")}, {ord("b")}) for sector in sectors)
        torn += len({sector[0] for sector in sectors}) == 2
        whole = (after(tmp_path, code, fault="reordered", boundary=last, seed=seed) / "file").read_bytes()
        assert whole[96:] in (b"a" * 4000, b"b" * 4000)
    assert torn > 0


def test_a_kill_alone_loses_nothing(tmp_path):
    _, ended = run(tmp_path, WRITER, "careless")
    root = after(tmp_path, WRITER, "careless", fault="killed", boundary=ended.report["boundaries"], seed=1)
    assert (root / "file").read_bytes() == b"2" * 5000


def test_removed_and_replaced_files_come_back_where_the_folder_was_not_synced(tmp_path):
    code = """
import os, shutil, sys
root = sys.argv[1]
os.remove(root + "/old/one"), os.rmdir(root + "/old"), os.replace(root + "/two", root + "/three")
os.mkdir(root + "/end")
"""

    def prepare(folder):
        (folder / "root" / "old").mkdir(parents=True)
        for name in ("old/one", "two", "three"):
            (folder / "root" / name).write_text(name)

    prepare(tmp_path)
    _, ended = run(tmp_path, code)
    folder = tmp_path / "again"
    prepare(folder)
    root, ended = run(folder, code, crash=Crash("dropped", 1, ended.report["boundaries"]))
    assert ended.stopped and ended.report["entries_lost"] == 3
    there = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}
    assert there == {name: name for name in ("old/one", "two", "three")}


def test_names_that_are_exchanged_are_so_both_or_neither(tmp_path):
    code = """
import ctypes, os, sys
root, here, exchange = sys.argv[1], -100, 2
for name in ("one", "two"):
    os.mkdir(f"{root}/{name}")
    with open(f"{root}/{name}/file", "w") as file:
        file.write(name)
os.sync()
names = [f"{root}/{name}".encode() for name in ("one", "two")]
assert ctypes.CDLL(None).renameat2(here, names[0], here, names[1], exchange) == 0
if sys.argv[2] == "synced":
    os.fsync(os.open(root, os.O_RDONLY))
os.mkdir(root + "/end")
"""
    found = set()
    for kind in ("synced", "not"):
        calls = run(tmp_path / kind, code, kind, calls=True)[1].report["calls"]
        for seed in SEEDS:
            root = after(tmp_path / kind, code, kind, fault="reordered", boundary=len(calls), seed=seed)
            found.add((kind, (root / "one" / "file").read_text(), (root / "two" / "file").read_text()))
    assert found == {("synced", "two", "one"), ("not", "one", "two"), ("not", "two", "one")}


def test_children_are_on_the_same_drive_and_the_program_s_exit_code_is_kept(tmp_path):
    code = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "open(__import__('sys').argv[1] + '/child', 'w').write('x')", sys.argv[1]], check=True)
sys.exit(7)
"""
    root, ended = run(tmp_path, code, calls=True)
    assert ended.code == 7 and (root / "child").read_text() == "x"
    assert [call.split("/")[-1] for call in ended.report["calls"]] == ["child", "child at 0, 1"]


def test_what_is_not_modelled_is_refused_and_not_passed_over(tmp_path):
    code = """
import mmap, sys
with open(sys.argv[1] + "/file", "w+b") as file:
    file.write(b"x" * 4096), file.flush()
    mmap.mmap(file.fileno(), 4096)
"""
    with pytest.raises(AssertionError, match="mapped file is not modelled"):
        run(tmp_path, code)
