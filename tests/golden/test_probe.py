"""`sluice probe` as a user runs it: a whole machine file, the cache, and drives that cannot be measured."""

import os
import shutil
import subprocess

import pytest
import yaml

EXIT_SETUP = 2


def probe(directory, *arguments, wrapper=(), out="m.yaml"):
    environment = {**os.environ, "XDG_CACHE_HOME": str(directory / "cache")}
    command = [*wrapper, os.environ["SLUICE_BINARY"], "probe", "--quick", "--out", str(directory / out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=directory)


def on_memory(directory, options, *arguments):
    """With `drive`, a file system in memory, mounted for this one process."""
    drive = directory / "drive"
    drive.mkdir()
    if not shutil.which("unshare"):
        pytest.skip("no unshare")
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c",
             f'mount -t tmpfs -o {options} none "$0" && exec "$@"', str(drive)]
    if subprocess.run([*mount, "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    return probe(directory, "--nvme", str(drive), *arguments, wrapper=mount)


def test_writes_a_machine_file_and_keeps_it(tmp_path):
    first = probe(tmp_path, "--nvme", str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert "products, bf16" in first.stdout and "measured in" in first.stdout
    machine = yaml.safe_load((tmp_path / "m.yaml").read_text())
    assert {"f32", "bf16"} == set(machine["gemm"]) == set(machine["attention"])
    assert machine["drives"][0]["path"] == str(tmp_path)
    assert machine["cores"] == machine["optimizer"][-1]["threads"]
    assert "error_median" in machine["gemm"]["bf16"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cache", "m.yaml"], "the probe left files behind"

    text = (tmp_path / "m.yaml").read_text()
    path = f'  - path: "{tmp_path}"\n'
    rated = text.replace(path, path + "    rated_tbw: 600 TB\n")
    assert rated != text
    (tmp_path / "m.yaml").write_text(rated)
    again = probe(tmp_path, "--nvme", str(tmp_path))
    assert again.returncode == 0 and "measured before" in again.stdout
    assert (tmp_path / "m.yaml").read_text() == rated, "what the user knows of the drive is lost"

    of_a_job = tmp_path / "cache/sluice/measured/job.json"
    of_a_job.parent.mkdir()
    of_a_job.write_text("{}")
    (cached,) = (tmp_path / "cache/sluice").glob("machine-*.yaml")
    cached.write_text(cached.read_text().replace("measured: \"20", "measured: \"19"))
    stale = probe(tmp_path, "--nvme", str(tmp_path))
    assert stale.returncode == 0 and "measured in" in stale.stdout
    assert not of_a_job.exists(), "jobs plan with what was measured before the probe"


def test_memory_is_measured_and_said_to_be_memory(tmp_path):
    done = on_memory(tmp_path, "size=1g")
    assert done.returncode == 0, done.stderr
    assert "is memory (tmpfs), not a drive: what is measured is the page cache" in done.stderr
    assert yaml.safe_load((tmp_path / "m.yaml").read_text())["drives"][0]["page_cache"] is True


def test_a_full_drive_is_refused_before_anything_is_measured(tmp_path):
    done = on_memory(tmp_path, "size=1m")
    assert done.returncode == EXIT_SETUP and "free; the probe needs" in done.stderr and "fix: free space" in done.stderr
    assert not (tmp_path / "m.yaml").exists()


def test_a_read_only_drive_is_refused(tmp_path):
    done = on_memory(tmp_path, "size=1g,ro")
    assert done.returncode == EXIT_SETUP
    assert "Read-only file system" in done.stderr and "fix: mount it for writing" in done.stderr


@pytest.mark.parametrize("out", ("absent/m.yaml", "."))
def test_a_file_that_cannot_be_written_is_refused_first(tmp_path, out):
    done = probe(tmp_path, "--nvme", str(tmp_path), out=out)
    assert done.returncode == EXIT_SETUP and "cannot write" in done.stderr


def test_a_cache_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "cache").write_text("a file")
    done = probe(tmp_path, "--nvme", str(tmp_path))
    assert done.returncode == EXIT_SETUP
    assert f"cannot write to {tmp_path}/cache/sluice\n  fix: set XDG_CACHE_HOME to a folder" in done.stderr
    assert not (tmp_path / "m.yaml").exists()


def test_two_folders_of_one_drive_are_said_to_be_one(tmp_path):
    """And a file that is no machine's is written anew."""
    (tmp_path / "m.yaml").write_text("a shopping list")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    done = probe(tmp_path, "--nvme", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/b and {tmp_path}/a are on one drive: no faster than one of them" in done.stderr
    machine = yaml.safe_load((tmp_path / "m.yaml").read_text())
    assert [drive["path"] for drive in machine["drives"]] == [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg"), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path):
    done = probe(tmp_path, "--nvme", str(tmp_path), "--device", "cuda")
    assert done.returncode == EXIT_SETUP and "sluice probe: device is cuda and no GPU can be used" in done.stderr
    assert "fix: put that right, or set device: cpu" in done.stderr
