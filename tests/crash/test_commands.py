"""A command that lost power leaves nothing half-written that looks whole, and runs again to the same bytes."""

import pytest
from crash import commands, machine
from crash.outcome import LOST

PER_COMMAND = 4


@pytest.mark.parametrize("command", commands.ALL, ids=lambda command: command.name)
def test_power_is_lost_before_some_of_its_calls(workshop, tmp_path, command):
    subject = command(workshop, tmp_path / command.name)
    stride = max(1, subject.boundaries // PER_COMMAND)
    crashes = 0
    for i, boundary in enumerate(range(stride, subject.boundaries + 1, stride)):
        outcome = subject.crash_at(boundary, machine.POWER_FAULTS[i % len(machine.POWER_FAULTS)], seed=1)
        assert outcome.verdict != LOST, outcome.why
        crashes += outcome.crashes
    # A run may make a call fewer than the one that was counted: then the last of these does not strike.
    assert crashes >= PER_COMMAND - 1
