"""`sluice profile`: what it says of a job adds up and is what the run did; nothing is kept. A study goes on after a kill."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import yaml
from equivalence import jobs
from golden import sluice_run

EXIT_SETUP = 2
# Nothing is left to choose: two starts of a job that measure this machine differently have one plan.
ON_DISK = {"params": "disk", "gradients": "disk", "optimizer": "disk", "activations": "disk",
           "update": "before_forward", "prefetch": 1}


def write_job(workshop, directory, **keys):
    job = jobs.job_of(workshop, jobs.TINY, "lora", "bf16", **{"output_dir": str(directory / "out"), **keys})
    return sluice_run.write_job(directory / "job.yaml", job)


def profile(job, *arguments):
    done = sluice_run.sluice("profile", job, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def on_disk(workshop, tmp_path_factory):
    """A job with everything on disk on an emulated device, so that every lane works; its profile."""
    directory = tmp_path_factory.mktemp("profile")
    job = write_job(workshop, directory, device="emulated", val_set_size=0.1, eval_steps=1, save_steps=1,
                    offload={**ON_DISK, "nvme_path": [str(directory / "swap")]})
    before = sorted(directory.rglob("*"))
    found = profile(job, "--steps", 3)
    left = [path for path in directory.rglob("*") if path not in before and path.name != "swap" and not path.is_dir()]
    return directory, job, found, left


def test_nothing_is_kept(on_disk):
    directory, _, _, left = on_disk
    assert left == []
    assert not (directory / "out").exists() and not list(directory.glob(".sluice-scratch-*"))


def test_every_lane_adds_up_to_the_step_and_its_blocks_to_the_lane(on_disk):
    _, _, found, _ = on_disk
    assert [step["step"] for step in found["steps"]] == [3, 4, 5]
    shares = []
    for step in found["steps"]:
        assert {"compute", "h2d", "d2h", "read", "write", "optim"} <= step["lanes"].keys()
        whole = [lane["busy_seconds"] + lane["stalled_seconds"] + lane["done_seconds"] for lane in step["lanes"].values()]
        assert max(whole) - min(whole) < 1e-9
        shares.append(whole[0] / step["step_seconds"])
    # The executor's clock and the step's differ by what lies between phases, where a busy machine may halt one of them.
    assert max(shares) <= 1.001 and max(shares) > 0.8
    mean = found["mean_step"]
    for name, lane in mean["lanes"].items():
        of_blocks = [block["lanes"][name] for block in mean["blocks"] if name in block["lanes"]]
        assert sum(block["busy_seconds"] for block in of_blocks) == pytest.approx(lane["busy_seconds"], rel=1e-6)
        assert sum(block["bytes"] for block in of_blocks) == pytest.approx(lane["bytes"], rel=0.01)
        assert sum(lane.get("stalled_on", {}).values()) == pytest.approx(lane["stalled_seconds"], rel=1e-6, abs=1e-12)
    assert mean["lanes"]["compute"]["flops"] > 0 and mean["lanes"]["read"]["bytes"] > 0
    names = [block["name"] for block in mean["blocks"]]
    assert "embedding" in names[0] and any("layer" in name or "." in name for name in names)


def test_its_steps_are_those_of_training(on_disk, workshop):
    """The losses to the last digit, and the bytes that the drives were asked for."""
    directory, _, found, _ = on_disk
    keys = yaml.safe_load((directory / "job.yaml").read_text())
    run = sluice_run.train({**keys, "max_steps": 5, "save_steps": 0, "eval_steps": 0,
                            "output_dir": str(directory / "trained")}, directory / "again")
    assert [step["loss"] for step in found["steps"]] == run.column("loss")[2:]
    assert [step["tokens"] for step in found["steps"]] == run.column("tokens")[2:]
    assert [step["disk_read_bytes"] for step in found["steps"]] == run.column("disk_read_bytes")[2:]
    assert [step["disk_write_bytes"] for step in found["steps"]] == run.column("disk_write_bytes")[2:]
    assert found["disk"]["write_bytes_per_step"] == pytest.approx(sum(run.column("disk_write_bytes")[2:]) / 3)
    # The log of that run is there for the report from now on; of a run that is writing it, what is whole.
    with open(directory / "trained" / "trainer_log.jsonl", "a", encoding="utf8") as log:
        log.write('no step\n{"step": 6, "loss": 1')
    again = profile(sluice_run.write_job(directory / "again.yaml", {**keys, "output_dir": str(directory / "trained")}),
                    "--steps", 1)
    assert [line["loss"] for line in again["log"]] == run.column("loss")


def test_throughput_memory_and_energy_are_of_the_measured_steps(on_disk):
    _, _, found, _ = on_disk
    tokens, seconds = (sum(step[key] for step in found["steps"]) for key in ("tokens", "step_seconds"))
    assert found["summary"]["tokens_per_second"] == pytest.approx(tokens / seconds)
    assert found["summary"]["seconds_per_10k_tokens"] == pytest.approx(1e4 * seconds / tokens)
    peaks = found["plan"]["peak_bytes"]
    assert 0 < found["summary"]["device_peak_bytes"] <= peaks["device"]["total"] <= peaks["device"]["cap"]
    assert sum(value for key, value in peaks["host"].items() if key not in ("total", "cap")) >= peaks["host"]["total"]
    for use in found["energy"].values():
        assert (use["joules"] is None) == ("not_measured" in use)
        assert use["joules"] is None or use["joules_per_token"] == pytest.approx(use["joules"] / tokens)
    assert found["energy"]["gpu"]["not_measured"] == "no GPU computes"
    for picture in (found["measured"], found["simulated"]):
        assert all(0 <= begin <= end <= picture["seconds"] * 1e6 + 1 for _, begin, end, _ in picture["spans"])
        assert {lane for lane, *_ in picture["spans"]} == {"compute", "h2d", "d2h", "read", "write", "optim"}


def test_the_text_says_what_the_json_says(workshop, tmp_path):
    job = write_job(workshop, tmp_path, offload={**ON_DISK, "nvme_path": [str(tmp_path / "swap")]})
    done = sluice_run.sluice("profile", job, "--steps", 2, "--trace", tmp_path / "trace.json")
    assert done.returncode == 0, done.stderr
    for expected in (r"2 steps after 2 to warm up", r"(?m)^step +time +tokens/s +of bound +compute", r"(?m)^lane +busy",
                     r"(?m)^block +compute", r"(?m)^peak bytes", r"tokens +[\d.]+ a second, [\d.]+ s per 10,000",
                     r"drive wear +[\d.]+ TB written", r"energy, GPU +not measured: no GPU", r"energy, CPU "):
        assert re.search(expected, done.stdout), (expected, done.stdout)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {"executed", "simulated"}


@contextlib.contextmanager
def profiling(job, directory):
    """The process of a profile without end, once it runs."""
    with subprocess.Popen([sluice_run.binary(), "profile", str(job), "--steps", "1000000"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as process:
        while not list(directory.glob(".sluice-scratch-*/trainer_log.jsonl")) and process.poll() is None:
            time.sleep(0.05)
        yield process


def test_a_profile_that_is_stopped_leaves_nothing(workshop, tmp_path):
    job = write_job(workshop, tmp_path)
    with profiling(job, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert process.returncode == 128 + signal.SIGINT, process.stderr.read()
    assert not list(tmp_path.glob(".sluice-scratch-*"))


def test_a_cell_whose_study_is_gone_measures_nothing(workshop, tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICE_ENDS_WITH_PARENT", str(os.getppid()))  # the runner's parent: not the one that starts it
    done = sluice_run.sluice("profile", write_job(workshop, tmp_path))
    assert (done.returncode, done.stdout) == (EXIT_SETUP, "")
    assert done.stderr.startswith("sluice: the study that asked for this is gone")
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_what_a_killed_profile_left_goes_with_the_next(workshop, tmp_path):
    job = write_job(workshop, tmp_path)
    with profiling(job, tmp_path) as process:
        process.kill()
    assert list(tmp_path.glob(".sluice-scratch-*"))
    profile(job, "--steps", 1)
    assert not list(tmp_path.glob(".sluice-scratch-*"))


# --- studies ------------------------------------------------------------------------------------------------------------


def write_study(workshop, directory, **keys):
    write_job(workshop, directory)
    study = {"title": "Batches", "base": "job.yaml", "output_dir": str(directory / "study"), "steps": 1,
             "grid": {"micro_batch_size": [1, 2], "offload.max_cpu": ["4GiB", "64MiB"]}, **keys}
    return sluice_run.write_job(directory / "study.yaml", study)


def test_a_study_measures_what_fits_and_says_why_the_rest_does_not(workshop, tmp_path):
    study = write_study(workshop, tmp_path, published=[
        {"what": "someone's", "where": {"micro_batch_size": 2}, "tokens_per_second": 628, "source": "a paper"}])
    done = sluice_run.sluice("profile", study)
    assert done.returncode == 0, done.stderr
    assert "2 cells fit and are not measured, 2 skipped, 0 measured before; measuring takes about" in done.stdout
    rows = list(csv.DictReader((tmp_path / "study" / "study.csv").open()))
    assert [(row["micro_batch_size"], row["offload.max_cpu"], row["status"]) for row in rows] == [
        ("1", "4GiB", "measured"), ("1", "64MiB", "skipped"), ("2", "4GiB", "measured"), ("2", "64MiB", "skipped")]
    assert "max_cpu" in rows[1]["reason"] and float(rows[0]["tokens_per_second"]) > 0
    markdown = (tmp_path / "study" / "study.md").read_text()
    assert "| 2 | 4GiB | measured |" in markdown and "628 tokens/s" in markdown
    table = json.loads((tmp_path / "study" / "study.json").read_text())
    assert re.match(r"measured: \d+ tokens/s; planned: \d+ tokens/s", table["published"][0]["ours"])
    assert (tmp_path / "study" / "report.html").stat().st_size > 1 << 20

    again = sluice_run.sluice("profile", study)
    assert again.returncode == 0 and again.stdout.count("measured before") == 3  # two cells, and the sum
    kept = list(csv.DictReader((tmp_path / "study" / "study.csv").open()))
    assert [kept[i] for i in (0, 2)] == [rows[i] for i in (0, 2)]


@pytest.mark.parametrize("how", (signal.SIGTERM, signal.SIGKILL))
def test_a_study_that_is_stopped_goes_on_where_it_was(workshop, tmp_path, how):
    study = write_study(workshop, tmp_path, grid={"seed": [1, 2, 3]}, steps=3)
    cells = tmp_path / "study" / "cells"

    def measured():
        return [file for file in cells.glob("*.json") if json.loads(file.read_text())["state"] == "measured"]

    with subprocess.Popen([sluice_run.binary(), "profile", str(study)], stdout=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        while not measured() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(how)
        process.wait(120)
        assert process.returncode == (128 + how if how == signal.SIGTERM else -how)
    kept = {file.name: file.read_bytes() for file in measured()}
    assert 1 <= len(kept) < 3
    done = sluice_run.sluice("profile", study)
    assert done.returncode == 0, done.stderr
    assert f"{len(kept)} measured before" in done.stdout and len(measured()) == 3
    assert all((cells / name).read_bytes() == content for name, content in kept.items())


def test_what_no_cell_can_is_one_error(workshop, tmp_path):
    study = write_study(workshop, tmp_path)
    empty = tmp_path / "model without weights"
    shutil.copytree(yaml.safe_load((tmp_path / "job.yaml").read_text())["base_model"], empty,
                    ignore=shutil.ignore_patterns("*.safetensors*"))
    done = sluice_run.sluice("profile", study, f"base_model={empty}")
    assert done.returncode == EXIT_SETUP
    assert done.stderr.startswith("sluice: no cell can run: ") and done.stderr.count("model.safetensors.index.json") == 1
    assert "\n  fix: " in done.stderr
    assert done.stdout.count("skipped: ") == 4 and (tmp_path / "study" / "study.csv").exists()


def test_a_planned_study_says_that_nothing_was_measured(workshop, tmp_path):
    study = write_study(workshop, tmp_path, grid={"seed": [1]})
    done = sluice_run.sluice("profile", study, "--plan-only")
    assert done.returncode == 0, done.stderr
    row, = csv.DictReader((tmp_path / "study" / "study.csv").open())
    assert row["status"] == "planned" and row["tokens_per_second"] == "" and float(row["planned_tokens_per_second"]) > 0
    assert "not measured" in (tmp_path / "study" / "study.md").read_text()


def test_a_studys_wrong_key_is_named_with_its_line(workshop, tmp_path):
    study = write_study(workshop, tmp_path)
    study.write_text(study.read_text().replace("micro_batch_size", "micro_batch_siz"))
    number = next(n for n, line in enumerate(study.read_text().splitlines(), 1) if "micro_batch_siz" in line)
    done = sluice_run.sluice("profile", study)
    assert done.returncode == EXIT_SETUP and done.stdout == ""
    assert done.stderr == (f"sluice: {study}:{number}:3: unknown key 'micro_batch_siz'\n"
                           "  fix: did you mean 'micro_batch_size'?\n")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(("arguments", "says"), ((["--json"], "is a study"), (["--report", "x.html"], "is a study")))
def test_options_of_a_job_are_not_of_a_study(workshop, tmp_path, arguments, says):
    done = sluice_run.sluice("profile", write_study(workshop, tmp_path), *arguments)
    assert done.returncode == EXIT_SETUP and says in done.stderr
