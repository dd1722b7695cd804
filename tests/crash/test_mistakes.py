"""Mistakes that the crashes have found, each by itself."""

import pytest
from crash import cases, machine
from crash.machine import Crash
from crash.outcome import SURVIVED
from crash.training import Training

CASE = cases.BY_NAME["full-bf16"]  # saves after each step, keeps one checkpoint


@pytest.fixture(scope="module")
def training(workshop, tmp_path_factory):
    return Training(workshop, CASE, tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def calls(training, tmp_path_factory):
    """Of a run that keeps one checkpoint. The threads of another run may have another order among themselves."""
    root = tmp_path_factory.mktemp("calls")
    ended = machine.run(training.command_in(root), root, environment=training.environment, calls=True)
    assert ended.code == 0, ended
    return ended.report["calls"]


@pytest.fixture(scope="module")
def without_power(training, calls, tmp_path_factory):
    """(out, steps saved) of a run whose power failed late, all unsynced lost."""
    root = tmp_path_factory.mktemp("without_power")
    ended = machine.run(training.command_in(root), root, Crash("dropped", 1, len(calls) * 3 // 4), training.environment)
    assert ended.stopped
    steps_saved = training.first_step_after(ended) - 1
    assert steps_saved > 2
    return root / "out", steps_saved


def test_the_name_of_a_new_output_dir_is_safe_before_a_checkpoint_is(without_power):
    out, steps_saved = without_power
    assert any(out.glob(f"checkpoint-{steps_saved}")) or any(out.glob(f"checkpoint-{steps_saved + 1}"))


def test_the_log_of_the_steps_before_a_checkpoint_is_as_safe_as_the_checkpoint(training, without_power):
    out, steps_saved = without_power
    lines, all_lines = ((folder / "trainer_log.jsonl").read_text().splitlines() for folder in (out, training.undisturbed))
    assert 2 < steps_saved <= len(lines) < len(all_lines)


def test_a_checkpoint_that_is_partly_removed_does_not_look_like_one(training, calls):
    """Whatever of the removal reaches the drive first."""
    removals = [i for i, call in enumerate(calls, 1) if call.startswith("remove") and "/checkpoint-" in call]
    assert len(removals) > 8
    middle = removals[len(removals) // 2]
    for fault, boundary in (("killed", middle), ("killed", middle + 3), ("reordered", middle), ("torn", middle + 2)):
        outcome = training.endure_at(boundary, fault, seed=1)
        assert outcome.verdict == SURVIVED, outcome.why
