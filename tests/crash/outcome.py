"""What became of one run that was crashed, and the table over many."""

from collections import Counter
from dataclasses import dataclass, field

SURVIVED, STOPPED, LOST = "survived", "stopped", "lost"


@dataclass
class Outcome:
    """`crashes`: that struck. `why`: of a loss, enough to do it again."""

    fault: str
    crashes: int
    verdict: str = SURVIVED
    why: str = ""


@dataclass
class Table:
    counts: Counter = field(default_factory=Counter)
    losses: list = field(default_factory=list)

    def add(self, what, outcome):
        row = (what, outcome.fault)
        self.counts[row, "tried"] += outcome.crashes
        # Those before the last were survived, whatever the last did.
        self.counts[row, SURVIVED] += max(outcome.crashes - 1, 0)
        self.counts[row, outcome.verdict] += min(outcome.crashes, 1)
        if outcome.verdict == LOST:
            if outcome.crashes == 0:
                self.counts[row, LOST] += 1
            self.losses.append(f"{what}, {outcome.fault}: {outcome.why}")

    def total(self, column):
        return sum(count for (_, name), count in self.counts.items() if name == column)

    def __str__(self):
        columns = ("tried", SURVIVED, STOPPED, LOST)
        lines = ["| what | fault | times tried | survived, bit-identical | stopped with the right message | lost |",
                 "|---|---|---|---|---|---|"]
        for what, fault in sorted({row for row, _ in self.counts}):
            counts = " | ".join(str(self.counts[(what, fault), column]) for column in columns)
            lines.append(f"| {what} | {fault} | {counts} |")
        lines.append("| all | | " + " | ".join(str(self.total(column)) for column in columns) + " |")
        return "\n".join(lines)
