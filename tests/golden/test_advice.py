"""What a plan advises holds for whoever does it: a setting that is said to fit fits, a change is as fast as was said."""

import dataclasses
import re
from pathlib import Path

import pytest
from equivalence import jobs
from golden import sluice_run

EXIT_SETUP = 2
MACHINE = Path(__file__).resolve().parents[2] / "configs" / "machine" / "rtx4060_laptop.yaml"
# Little is left to choose, so that a plan is found soon.
ON_DISK = {"params": "disk", "gradients": "disk", "optimizer": "disk", "activations": "disk", "update": "before_forward",
           "prefetch": 1}


def write_job(workshop, directory, model=jobs.TINY, offload=None, **keys):
    offload = {"nvme_path": [str(directory / "swap")], **(offload or {})}
    job = jobs.job_of(workshop, model, "full", "bf16", offload=offload, output_dir=str(directory / "out"))
    return sluice_run.write_job(directory / "job.yaml", {**job, **keys})


def plan(job, *settings, machine=MACHINE, code=0):
    done = sluice_run.sluice("plan", job, "--machine", machine, *settings)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def tokens_per_second(done):
    return float(re.search(r"(?m)^step .* (\d+) tokens/s", done.stdout)[1])


def changes(done):
    """By what: tokens/s, and the gain in percent."""
    lines = done.stdout[done.stdout.index("\nfaster with"):].splitlines()[1:]
    found = [re.match(r"(?:faster with| {11}) +(.+): (\d+) tokens/s \(\+(\d+)%\)$", line) for line in lines]
    return {match[1]: (float(match[2]), float(match[3])) for match in found}


@pytest.fixture(scope="module")
def streamed(workshop, tmp_path_factory):
    """A step whose drive is what binds it."""
    job = write_job(workshop, tmp_path_factory.mktemp("streamed"), offload=ON_DISK)
    done = plan(job)
    return job, tokens_per_second(done), changes(done)


def test_a_change_is_as_fast_as_it_was_said_to_be(streamed, tmp_path):
    job, now, advised = streamed
    doubled = MACHINE.read_text().replace("read: 7 GB/s, write: 1.9 GB/s, both: 2.99 GB/s",
                                          "read: 14 GB/s, write: 3.8 GB/s, both: 5.98 GB/s")
    (tmp_path / "machine.yaml").write_text(doubled)
    assert doubled != MACHINE.read_text()
    for what, then in (("micro_batch_size 4", plan(job, "micro_batch_size=4")),
                       ("gradient_accumulation_steps 6", plan(job, "gradient_accumulation_steps=6")),
                       ("twice the drives", plan(job, machine=tmp_path / "machine.yaml"))):
        said, gain = advised[what]
        assert said == pytest.approx(tokens_per_second(then), rel=0.005), what
        assert gain == pytest.approx(100 * (said / now - 1), abs=0.6) and gain >= 3, what


def test_where_nothing_helps_it_is_said_so(workshop, tmp_path):
    # In the device's memory, and so many rows at once that starting kernels is nothing beside them.
    done = plan(write_job(workshop, tmp_path, micro_batch_size=200))
    assert done.stdout.endswith("\nfaster with    no single change of batch, states, memory or drives gains 3% or more\n")


def settings_that_fit(stderr):
    return dict(re.findall(r"set ([\w.]+) to (\w+)", stderr.partition("\n  fix: ")[2]))


@pytest.fixture(scope="module")
def long_rows(workshop, tmp_path_factory):
    """A job, and the MiB of the device's memory that it is said to need at least."""
    model = dataclasses.replace(jobs.TINY, name="longer_positions",
                                fields={**jobs.TINY.fields, "max_position_embeddings": 512})
    job = write_job(workshop, tmp_path_factory.mktemp("long"), model, sequence_len=512, sample_packing=True,
                    micro_batch_size=8)
    refused = plan(job, "offload.max_gpu=1MiB", code=EXIT_SETUP)
    return job, int(settings_that_fit(refused.stderr)["offload.max_gpu"].removesuffix("MiB"))


def test_a_setting_that_is_said_to_fit_fits(long_rows):
    job, least = long_rows
    cap = f"offload.max_gpu={least * 3 // 4}MiB"
    settings = settings_that_fit(plan(job, cap, code=EXIT_SETUP).stderr)
    assert {"offload.max_gpu", "micro_batch_size", "sequence_len"} <= settings.keys(), settings
    assert int(settings["micro_batch_size"]) < 8
    assert int(settings["sequence_len"]) < 512 and int(settings["sequence_len"]) % 64 == 0
    for key in ("micro_batch_size", "sequence_len"):
        plan(job, cap, f"{key}={settings[key]}")


def test_more_memory_that_is_said_to_help_helps(long_rows):
    job, least = long_rows
    done = plan(job, f"offload.max_gpu={least}MiB")
    what, (said, _) = next((what, said) for what, said in changes(done).items() if what.startswith("max_gpu "))
    more, percent = re.fullmatch(r"max_gpu ([\d.]+) MiB \(\+(25|50|100)%\)", what).groups()
    assert float(more) == pytest.approx(least * (1 + int(percent) / 100), abs=0.02)
    assert tokens_per_second(done) < min(said, tokens_per_second(plan(job, f"offload.max_gpu={more}MiB")))
