"""What a job's first start measured, the next one plans with: a file in the cache folder, used while it holds."""

import json
import os
import time

import pytest
from equivalence import jobs
from golden import sluice_run


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sluice" / "measured"


def job_of(workshop, tmp_path, **keys):
    return jobs.job_of(workshop, jobs.TINY, "full", "bf16", output_dir=str(tmp_path / "out"),
                       offload={"optimizer": "disk", "nvme_path": [str(tmp_path / "swap")]}, **keys)


def forecast(workshop, tmp_path, threads=1, **keys):
    keys = job_of(workshop, tmp_path, **keys)
    done = sluice_run.sluice("plan", sluice_run.write_job(tmp_path / "job.yaml", keys), "--json", threads=threads)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["forecast"]


def kept(cache, kind):
    return [file for file in sorted(cache.iterdir()) if json.loads(file.read_text())["key"]["kind"] == kind]


def test_two_starts_plan_with_the_same_figures(workshop, tmp_path, cache):
    first = forecast(workshop, tmp_path)
    assert len(kept(cache, "passes")) == 1 and len(kept(cache, "rates")) == 1
    assert forecast(workshop, tmp_path) == first


def test_other_work_is_measured_by_itself(workshop, tmp_path, cache):
    forecast(workshop, tmp_path)
    forecast(workshop, tmp_path, micro_batch_size=1)
    assert len(kept(cache, "passes")) == 2
    forecast(workshop, tmp_path, threads=2)
    assert len(kept(cache, "passes")) == 3 and len(kept(cache, "rates")) == 3


def slow_down(cache):
    """As if something had kept the machine busy while the passes were measured."""
    file, = kept(cache, "passes")
    document = json.loads(file.read_text())
    document["value"]["blocks_us"] = [[1e6, 1e6, 1e6] for _ in document["value"]["blocks_us"]]
    file.write_text(json.dumps(document))
    return file


def test_the_kept_figures_are_those_planned_with(workshop, tmp_path, cache):
    first = forecast(workshop, tmp_path)
    slow_down(cache)
    assert forecast(workshop, tmp_path)["step_seconds"] > max(1, 10 * first["step_seconds"])


def test_figures_that_the_steps_prove_wrong_are_dropped(workshop, tmp_path, cache):
    forecast(workshop, tmp_path)
    file = slow_down(cache)
    sluice_run.train(job_of(workshop, tmp_path), tmp_path)
    assert not file.exists()


def without_a_block_or_time(text):
    """Of passes, a block less than the model has; of rates, no time that anybody could read."""
    document = json.loads(text)
    if "blocks_us" in document["value"]:
        document["value"]["blocks_us"].pop()
    else:
        document["measured"] = "some time ago"
    return json.dumps(document)


@pytest.mark.parametrize("damage", [
    lambda text: text[: len(text) // 2],
    lambda text: "",
    lambda text: text.replace('"blocks_us"', '"blocks"').replace('"beside"', '"besides"'),
    lambda text: text.replace('"measured": "20', '"measured": "19'),
    without_a_block_or_time,
], ids=["cut", "empty", "renamed", "old", "without_a_block_or_time"])
def test_what_does_not_hold_is_measured_anew(workshop, tmp_path, cache, damage):
    forecast(workshop, tmp_path)
    damaged = {file: damage(file.read_text()) for file in cache.iterdir()}
    for file, text in damaged.items():
        file.write_text(text)
    forecast(workshop, tmp_path)
    for file, text in damaged.items():
        assert file.read_text() != text
    assert len(kept(cache, "passes")) == 1 and len(kept(cache, "rates")) == 1


def test_a_folder_that_cannot_be_written_costs_nothing_else(workshop, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert forecast(workshop, tmp_path)["step_seconds"] > 0


def test_without_a_home_jobs_run_and_nothing_is_kept(workshop, tmp_path, monkeypatch):
    for variable in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    before = {path for path in tmp_path.rglob("*")}
    run = sluice_run.train(job_of(workshop, tmp_path), tmp_path)
    assert len(run.log) == jobs.RECIPE.steps
    made = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path not in before}
    assert made <= {"job.yaml", "out", "swap"}
    # What cannot do without it says so.
    done = sluice_run.sluice("probe", "--quick", "--nvme", tmp_path, "--out", tmp_path / "m.yaml")
    assert done.returncode == 2 and "neither XDG_CACHE_HOME nor HOME is set\n  fix: set one" in done.stderr
    assert not (tmp_path / "m.yaml").exists()


def test_figures_of_long_ago_go_when_others_come(workshop, tmp_path, cache):
    cache.mkdir(parents=True)
    for name, days in (("old.json", 8), ("young.json", 6)):
        (cache / name).write_text(json.dumps({"key": {"kind": name}}))
        os.utime(cache / name, (time.time() - days * 86400,) * 2)
    forecast(workshop, tmp_path)
    assert not (cache / "old.json").exists() and (cache / "young.json").exists()


def lora_job(workshop, tmp_path, **keys):
    return jobs.job_of(workshop, jobs.SMOLLM2_LIKE, "lora", "bf16", output_dir=str(tmp_path / "out"), **keys)


def planned(job, tmp_path):
    done = sluice_run.sluice("plan", sluice_run.write_job(tmp_path / "job.yaml", job))
    assert done.returncode == 0, done.stderr


def test_the_pace_of_steps_is_kept(workshop, tmp_path, cache):
    job = lora_job(workshop, tmp_path, max_steps=6)
    planned(job, tmp_path)
    file, = kept(cache, "passes")
    document = json.loads(file.read_text())
    # Paces from 0.5 to 4 are kept. From near their middle, either measuring or the steps may be disturbed.
    document["value"]["blocks_us"] = [[0.75 * us for us in block] for block in document["value"]["blocks_us"]]
    file.write_text(json.dumps(document))
    sluice_run.train(job, tmp_path)
    pace, = kept(cache, "pace")
    assert len(json.loads(pace.read_text())["value"]) == 1


def short_hash(text):
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001b3 % 2**64
    return f"{value:016x}"


def keep_paces(cache, key, paces):
    """As if jobs had run at them, whatever the order of magnitude that passes are measured at here."""
    for digits in range(1, 9):
        of_digits = key | {"digits_of_the_longest_pass": digits}
        file = cache / f"{short_hash(json.dumps(of_digits, separators=(',', ':')))}.json"
        file.write_text(json.dumps({"measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "key": of_digits,
                                    "value": paces}))


def test_the_pace_of_past_steps_is_planned_with(workshop, tmp_path, cache):
    job = lora_job(workshop, tmp_path, max_steps=6)
    planned(job, tmp_path)
    passes, = kept(cache, "passes")
    document = json.loads(passes.read_text())
    assert document["value"]["pace"] == 1
    key_of_passes = document["key"]
    key = {"kind": "pace"} | {name: key_of_passes[name] for name in ("build", "host", "threads")}
    keep_paces(cache, key | {"computed_by": "cpu", "compute_dtype": key_of_passes["compute_dtype"]}, [1.25, 1.25, 9.0])
    passes.unlink()
    planned(job, tmp_path)
    passes, = kept(cache, "passes")
    assert json.loads(passes.read_text())["value"]["pace"] == 1.25
