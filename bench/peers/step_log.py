"""One JSON line per step on stdout, the format that run_peers.py reads from every peer."""

import json
import resource
import time


class StepLog:
    def __init__(self, tokens_per_step):
        self.tokens_per_step = tokens_per_step
        self.step = 0
        self.begin = None

    def __enter__(self):
        self.step += 1
        self.begin = time.monotonic()
        return self

    def done(self, loss):
        seconds = time.monotonic() - self.begin
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"step": self.step, "loss": loss, "step_seconds": seconds, "tokens": self.tokens_per_step,
                          "peak_rss_bytes": peak_bytes}), flush=True)

    def __exit__(self, *failure):
        return False
