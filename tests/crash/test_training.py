"""A job that was killed, or lost power, ends as one that was left alone: chosen seeds; bench/crash_soak has the rest."""

import pytest
from crash import cases, machine
from crash.outcome import STOPPED, SURVIVED
from crash.training import Training


@pytest.fixture(scope="module", params=cases.ALL, ids=lambda case: case.name)
def training(request, workshop, tmp_path_factory):
    return Training(workshop, request.param, tmp_path_factory.mktemp(request.param.name))


def check(training, outcome):
    may_stop = training.case.mode == "in_place"
    assert outcome.verdict == SURVIVED or (may_stop and outcome.verdict == STOPPED), outcome.why


def test_kills_at_random_instants(training):
    check(training, training.endure(machine.KILL, seed=1))


def test_losses_of_power_at_random_calls(training):
    """Each case another fault: all are there."""
    fault = machine.AT_BOUNDARY[cases.ALL.index(training.case) % len(machine.AT_BOUNDARY)]
    check(training, training.endure(fault, seed=2))


def test_a_loss_of_power_while_old_checkpoints_go(training):
    """Some call among the last save's, each case another one."""
    calls = training.last_calls()
    call = calls[len(calls) * (1 + cases.ALL.index(training.case)) // (1 + len(cases.ALL))]
    check(training, training.endure_at(call, "torn", 3))


def test_losses_of_power_while_the_last_step_overwrites_one_in_place(workshop, tmp_path):
    """Its checkpoint is written one step late, at the end of the run, and the last step's update follows at once."""
    training = Training(workshop, cases.BY_NAME["full-in-place-late"], tmp_path)
    calls = range(training.boundaries // 2, 3 * training.boundaries // 4)
    outcomes = [training.endure_at(call, "torn", 3) for call in calls[::len(calls) // 12]]
    for outcome in outcomes:
        check(training, outcome)
    assert {outcome.verdict for outcome in outcomes} == {SURVIVED, STOPPED}
