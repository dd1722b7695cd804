"""runtime/setup/setup.sh against stand-ins for dpkg, apt-get, id, python3 and pip: what it asks of them, and what it says."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[3] / "runtime" / "setup"
TOOLS = ("bash", "cat", "dirname", "env", "find", "flock", "grep", "mkdir", "nproc", "rm", "sed", "sha256sum", "sleep", "test")

# Each stand-in logs its call. $MISSING, $USER_ID, $PIP_EXIT and $PIP_SECONDS steer them.
STAND_INS = {
    "id": 'echo "${USER_ID:-1000}"',
    "apt-get": 'echo "apt-get $*" >>"$CALLS"',
    "dpkg-query": """shift 2
for package in "$@"; do
  [ "$package" = "${MISSING:-}" ] || echo "installed $package"
done""",
    "python3": """case "$1" in
  -m) echo "venv $3" >>"$CALLS"
      mkdir -p "$3/bin" "$3/lib/python3.11/site-packages"
      cat "$VENV_PYTHON" >"$3/bin/python"; chmod +x "$3/bin/python" ;;
esac""",
}
VENV_PYTHON = """#!/usr/bin/env bash
case "$1" in
  -m) echo "pip" >>"$CALLS"; sleep "${PIP_SECONDS:-0}"; exit "${PIP_EXIT:-0}" ;;
  -c) echo "${TORCH_VERSION:-2.11.0} /torch" ;;
esac
"""


class Machine:
    """A small Debian: a clone with the setup folder, a home, and only the stand-ins and plain tools on PATH."""

    def __init__(self, folder):
        self.clone, self.cache, self.bin = folder / "clone", folder / "home" / ".cache" / "sluice", folder / "bin"
        self.calls_file = folder / "calls"
        self.bin.mkdir()
        for tool in (*TOOLS, "chmod"):
            (self.bin / tool).symlink_to(shutil.which(tool))
        for name, body in STAND_INS.items():
            self.add_program(name, body)
        (folder / "venv_python").write_text(VENV_PYTHON)
        shutil.copytree(SETUP, self.clone / "runtime" / "setup")
        self.environment = {
            "PATH": str(self.bin), "HOME": str(folder / "home"), "CALLS": str(self.calls_file),
            "VENV_PYTHON": str(folder / "venv_python"), "CUDA_HOME": "/nonexistent",
        }

    def add_program(self, name, body="", folder=None):
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def run(self, *command, **variables):
        command = command or (self.clone / "runtime" / "setup" / "setup.sh",)
        return subprocess.run(command, env={**self.environment, **variables}, capture_output=True, text=True)

    def calls(self):
        """The calls since the last time this was asked."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_first_run_installs_and_second_is_silent_and_fetches_nothing(machine):
    nvcc = {"CUDA_HOME": str(machine.bin)}
    machine.add_program("nvcc", folder=machine.bin / "bin")
    first = machine.run(**nvcc)
    assert first.returncode == 0
    assert machine.calls() == [f"venv {machine.cache}/venv", "pip"]
    second = machine.run(**nvcc)
    assert (second.returncode, second.stderr) == (0, "")
    assert machine.calls() == []
    assert second.stdout == first.stdout
    assert f"export CCACHE_BASEDIR={machine.clone}\n" in second.stdout
    assert "export SLUICE_PRESET=release\n" in second.stdout


def test_changed_requirements_are_installed_into_the_same_venv(machine):
    machine.run()
    machine.calls()
    with open(machine.clone / "runtime" / "setup" / "requirements.txt", "a") as requirements:
        requirements.write("one-more==1.0\n")
    machine.run()
    assert machine.calls() == ["pip"]


def test_missing_package_without_root_is_one_line_and_exit_2(machine):
    done = machine.run(MISSING="liburing-dev")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("apt-get update && apt-get install -y --no-install-recommends liburing-dev\n")
    assert machine.calls() == []


def test_root_installs_the_missing_package_and_no_other(machine):
    assert machine.run(MISSING="liburing-dev", USER_ID="0").returncode == 0
    installs = [call for call in machine.calls() if " install " in call]
    assert len(installs) == 1
    assert installs[0].endswith("--no-install-recommends liburing-dev")


def test_another_system_than_debian_is_told_and_goes_on(machine):
    (machine.bin / "dpkg-query").unlink()
    done = machine.run()
    assert done.returncode == 0
    assert "no dpkg" in done.stderr


def test_interrupted_install_goes_on_and_halves_of_packages_do_not_pass_for_whole(machine):
    failed = machine.run(PIP_EXIT="1")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert machine.calls() == [f"venv {machine.cache}/venv", "pip"]
    packages = machine.cache / "venv" / "lib" / "python3.11" / "site-packages"
    half, whole = packages / "half-1.0.dist-info", packages / "whole-1.0.dist-info"
    half.mkdir()
    whole.mkdir()
    (whole / "RECORD").touch()
    assert machine.run().returncode == 0
    assert machine.calls() == ["pip"]
    assert (half.exists(), whole.exists()) == (False, True)


def test_venv_whose_making_was_interrupted_is_made_again(machine):
    machine.run()
    machine.calls()
    (machine.cache / "venv" / ".sluice-stamp").unlink()
    assert machine.run().returncode == 0
    assert machine.calls() == [f"venv {machine.cache}/venv", "pip"]


def test_two_at_once_install_once(machine):
    runs = [threading.Thread(target=machine.run, kwargs={"PIP_SECONDS": "1"}) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert machine.calls() == [f"venv {machine.cache}/venv", "pip"]


def test_no_nvcc_builds_the_cpu_preset_and_says_so(machine):
    machine.run()
    done = machine.run()
    assert "export SLUICE_PRESET=cpu\n" in done.stdout
    assert "no nvcc" in done.stderr
    forced = machine.run(SLUICE_PRESET="debug")
    assert "export SLUICE_PRESET=debug\n" in forced.stdout
    assert forced.stderr == ""


def test_named_cache_and_xdg_cache(machine, tmp_path):
    machine.run(SLUICE_CACHE=str(tmp_path / "named"))
    machine.run(XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert machine.calls() == [f"venv {tmp_path}/named/venv", "pip", f"venv {tmp_path}/xdg/sluice/venv", "pip"]


@pytest.fixture
def named_venv(machine, tmp_path):
    for tool in ("cmake", "ninja"):
        machine.add_program(tool, folder=tmp_path / "mine" / "bin")
    shutil.copy(tmp_path / "venv_python", tmp_path / "mine" / "bin" / "python")
    (tmp_path / "mine" / "bin" / "python").chmod(0o755)
    return tmp_path / "mine"


def test_named_venv_is_used_as_it_is(machine, named_venv):
    done = machine.run(SLUICE_VENV=str(named_venv))
    assert done.returncode == 0
    assert f"export SLUICE_PYTHON={named_venv}/bin/python\n" in done.stdout
    assert machine.calls() == []
    assert not machine.cache.exists()


def test_named_venv_that_will_not_do_is_refused_with_the_fix(machine, named_venv):
    old = machine.run(SLUICE_VENV=str(named_venv), TORCH_VERSION="2.9.1+cpu")
    assert (old.returncode, old.stdout) == (2, "")
    assert "has torch 2.9.1+cpu, needed is 2.11.0" in old.stderr
    assert machine.run(SLUICE_VENV=str(named_venv), TORCH_VERSION="2.11.0+cpu").returncode == 0
    (named_venv / "bin" / "ninja").unlink()
    no_ninja = machine.run(SLUICE_VENV=str(named_venv))
    assert no_ninja.returncode == 2
    assert "pip install ninja==" in no_ninja.stderr
    assert machine.run(SLUICE_VENV="/nonexistent").returncode == 2


def test_named_libtorch_is_checked_and_used(machine, tmp_path):
    torch = tmp_path / "libtorch"
    for path in ("include/ATen/ATen.h", "lib/libtorch_cpu.so", "include/torch/headeronly/version.h"):
        (torch / path).parent.mkdir(parents=True, exist_ok=True)
        (torch / path).touch()
    refused = machine.run(SLUICE_TORCH_DIR=str(torch))
    assert refused.returncode == 2
    assert "is not LibTorch 2.11.0" in refused.stderr
    (torch / "include/torch/headeronly/version.h").write_text('#define TORCH_VERSION \\\n  "2.11.0"\n')
    assert f"export SLUICE_TORCH_DIR={torch}\n" in machine.run(SLUICE_TORCH_DIR=str(torch)).stdout
    (torch / "lib/libtorch_cpu.so").unlink()
    assert "is no LibTorch" in machine.run(SLUICE_TORCH_DIR=str(torch)).stderr


def test_with_env_runs_in_the_environment_and_hands_on_the_exit_code(machine):
    with_env = machine.clone / "runtime" / "setup" / "with_env"
    done = machine.run(with_env, "bash", "-c", 'echo "$SLUICE_PYTHON"; exit 7')
    assert (done.returncode, done.stdout) == (7, f"{machine.cache}/venv/bin/python\n")
    refused = machine.run(with_env, "bash", "-c", "echo ran", MISSING="g++")
    assert (refused.returncode, refused.stdout) == (2, "")


def test_folders_with_spaces(machine, tmp_path):
    moved = tmp_path / "a clone"
    os.rename(machine.clone, moved)
    machine.clone = moved
    done = machine.run(moved / "runtime" / "setup" / "with_env", "bash", "-c", 'echo "$CCACHE_BASEDIR"',
                       SLUICE_CACHE=str(tmp_path / "a cache"))
    assert (done.returncode, done.stdout) == (0, f"{moved}\n")
