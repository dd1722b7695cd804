"""What others could make of a run: files that they may read, ports, secrets in what it prints, protections of its code."""

import json
import os
import re
import stat
import subprocess
import time
from pathlib import Path

import pytest
from faults.live_run import LiveRun
from golden import sluice_run

SECRETS = {"HF_TOKEN": "hf_sEcReT1", "AWS_SECRET_ACCESS_KEY": "sEcReT2", "WANDB_API_KEY": "sEcReT3", "MY_PASSWORD": "sEcReT4"}
SECRET = b"sEcReT"


@pytest.fixture(scope="module")
def held(job, tmp_path_factory):
    """A run in the middle of a step, with secrets in its environment and a mask that hides nothing."""
    directory = tmp_path_factory.mktemp("held")
    job = {**job, "offload": {**job["offload"], "nvme_path": str(directory / "swap")}}
    run = LiveRun(job, directory, "read .extents hang", environment=SECRETS, preexec_fn=lambda: os.umask(0))
    run.wait_for_checkpoint(2)
    run.trigger.touch()
    time.sleep(0.3)
    yield run
    run.trigger.unlink(missing_ok=True)
    run.finish()


def test_swap_files_are_their_owners_alone(held):
    folder = held.output_dir.parent / "swap" / "sluice-swap"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert files and set(files.values()) == {0o600}, files


def sockets_of(process):
    links = (os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir())
    return {match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))}


def test_nothing_listens_or_is_connected(held):
    network = Path(f"/proc/{held.process.pid}/net")
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        if not (network / table).exists():
            continue
        inodes = {line.split()[9] for line in (network / table).read_text().splitlines()[1:]}
        assert not sockets_of(held.process) & inodes, table


def test_a_run_needs_no_network(job, tmp_path):
    alone = ["unshare", "--net", "true"]
    if subprocess.run(alone, capture_output=True).returncode != 0:
        pytest.skip("network namespaces are refused")
    job = {**job, "output_dir": str(tmp_path / "out"), "dataset_prepared_path": str(tmp_path / "prepared")}
    file = sluice_run.write_job(tmp_path / "job.yaml", job)
    done = subprocess.run([*alone[:2], sluice_run.binary(), "train", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_secrets_of_the_environment_are_written_nowhere(held):
    # The end of the run is part of what may tell.
    held.trigger.unlink(missing_ok=True)
    held.process.wait(sluice_run.COMMAND_SECONDS_MAX)
    assert "result: " in held.stdout
    assert SECRET.decode() not in held.stdout + held.stderr
    for path in held.output_dir.parent.rglob("*"):
        assert not path.is_file() or SECRET not in path.read_bytes(), path


def test_secrets_are_not_in_the_messages_of_a_failure(job, tmp_path):
    run = LiveRun({**job, "base_model": str(tmp_path / "nowhere")}, tmp_path, environment=SECRETS).finish(2)
    assert SECRET.decode() not in run.stdout + run.stderr
    listing = subprocess.run([sluice_run.binary(), "train", str(tmp_path / "job.yaml"), "--dry-run"], capture_output=True,
                             text=True, env={**os.environ, **SECRETS})
    assert SECRET.decode() not in listing.stdout + listing.stderr


def elf(file, *what):
    return subprocess.run(["readelf", "--wide", *what, str(file)], capture_output=True, text=True, check=True).stdout


REPOSITORY = Path(__file__).resolve().parents[2]
KERNELS = re.compile(r"_isa\.cpp$|adamw_(scalar|avx2|avx512)\.cpp$|\.cu$")


@pytest.fixture(scope="module")
def release_folder():
    folder = Path(sluice_run.binary()).parent
    if "CMAKE_BUILD_TYPE:STRING=Release" not in (folder / "CMakeCache.txt").read_text():
        pytest.skip("this build is not the one that is shipped")
    return folder


@pytest.mark.parametrize("name", ("sluice", "libsluice_runtime.so", "libsluice_cuda.so"))
def test_the_binaries_are_hardened(release_folder, name):
    file = release_folder / name
    if "cuda" in name and not file.exists():
        pytest.skip("built without the CUDA device")
    assert re.search(r"Type:\s+DYN", elf(file, "--file-header")), "not position-independent"
    segments = elf(file, "--segments")
    assert "GNU_RELRO" in segments and not re.search(r"GNU_STACK.*RWE", segments)
    assert "BIND_NOW" in elf(file, "--dynamic") or re.search(r"FLAGS.*NOW", elf(file, "--dynamic"))
    symbols = elf(file, "--dyn-syms")
    assert "__stack_chk_fail" in symbols, "no stack protector"
    if "cuda" not in name:  # nothing there calls what can be fortified
        assert re.search(r"__\w+_chk@", symbols), "no fortified call"


def test_all_that_is_shipped_but_kernels_was_compiled_with_protections(release_folder):
    commands = json.loads((release_folder / "compile_commands.json").read_text())
    own = re.compile(r"(runtime|swap|optim|models)/")  # not our tests and benchmarks, nor what libraries ship as source
    hardened = {each["output"]: each["command"] for each in commands
                if own.match(os.path.relpath(each["file"], REPOSITORY)) and not KERNELS.search(each["file"])
                and own.match(os.path.relpath(each["output"], release_folder))}
    assert len(hardened) > 100, "the list of what is shipped is not whole"
    for output, command in hardened.items():
        assert "-fstack-protector-strong" in command and "-D_FORTIFY_SOURCE=2" in command, output
        assert re.search(r" -fPI[CE] ", command), output
