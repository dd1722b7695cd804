"""Mistakes that the crashes have found, each by itself."""

import re

import pytest
from crash import cases, machine
from crash.machine import Crash
from crash.outcome import SURVIVED
from crash.training import Training, numbers
from equivalence.outcome import NUMBERS

CASE = cases.BY_NAME["full-bf16"]  # saves after each step, keeps one checkpoint


@pytest.fixture(scope="module")
def training(workshop, tmp_path_factory):
    return Training(workshop, CASE, tmp_path_factory.mktemp("training"))


def calls_of(training, root):
    ended = machine.run(training.command_in(root), root, environment=training.environment, calls=True)
    assert ended.code == 0, ended
    return ended.report["calls"]


def check(outcome):
    assert outcome.verdict == SURVIVED, outcome.why
    if outcome.crashes == 0:
        pytest.skip("this run's plan was another, with fewer calls: nothing was crashed")


def boundary_of(calls, pattern):
    """The last call that matches, counted from 1."""
    return max(i for i, call in enumerate(calls, 1) if re.search(pattern, call))


@pytest.fixture(scope="module")
def calls(training, tmp_path_factory):
    """Of a run that keeps one checkpoint. The threads of another run may have another order among themselves."""
    return calls_of(training, tmp_path_factory.mktemp("calls"))


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
    assert 2 < steps_saved <= len(lines) <= len(all_lines)


def test_a_checkpoint_that_is_partly_removed_does_not_look_like_one(training, calls):
    """Whatever of the removal reaches the drive first."""
    removals = [i for i, call in enumerate(calls, 1) if call.startswith("remove") and "/checkpoint-" in call]
    assert len(removals) > 8
    middle = removals[len(removals) // 2]
    for fault, boundary in (("killed", middle), ("killed", middle + 3), ("reordered", middle), ("torn", middle + 2)):
        outcome = training.endure_at(boundary, fault, seed=1)
        assert outcome.verdict == SURVIVED, outcome.why


def test_a_checkpoint_too_many_goes_also_when_nothing_is_left_to_train(training, calls):
    """The last save is done, the one before it is still there."""
    last = boundary_of(calls, rf"rename .*/checkpoint-{cases.STEPS - 1} to ")
    outcome = training.endure_at(last, "killed", seed=1)
    check(outcome)


def test_a_step_that_fp16_skips_right_after_a_start_is_saved(workshop, tmp_path):
    """Nothing has been written yet that could be saved: the checkpoint that was resumed from holds it."""
    training = Training(workshop, cases.BY_NAME["full-fp16"], tmp_path / "training")
    skipped = NUMBERS.index("skipped")
    step = next(i for i, line in enumerate(numbers(training.undisturbed), 1) if i > 1 and line[skipped] == "True")
    (tmp_path / "calls").mkdir()
    saved = boundary_of(calls_of(training, tmp_path / "calls"), rf"rename .* to .*/checkpoint-{step - 1}$")
    outcome = training.endure_at(saved + 4, "killed", seed=1)
    check(outcome)
