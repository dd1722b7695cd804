"""Settings that must change where bytes live and when they move, and nothing else."""

import os
from dataclasses import dataclass, field, replace

import yaml


def residence(tier, **more):
    return {"params": tier, "gradients": tier, "optimizer": tier, **more}


@dataclass(frozen=True)
class Setting:
    name: str
    device: str
    offload: dict = field(hash=False)

    def keys(self):
        return {"device": self.device, "offload": self.offload}

    def assert_obeyed(self, plan):
        """`plan`: what the run says it did. A key that is read and then ignored would make every test here pass."""
        assert plan["memory"] == {"cpu": "unified", "emulated": "separate", "cuda": "separate"}[self.device]
        for name, group in plan["groups"].items():
            # Adapters are small: their weights stay in RAM.
            if not name.endswith(".adapter"):
                assert group["weights"] == self.offload["params"], name
        trained = list(plan["groups"].values())[-2:]
        assert any(group["states"] == self.offload["optimizer"] for group in trained), trained
        layers = [fates for name, fates in plan["blocks"].items() if name.startswith("layer.")]
        assert layers and all(self.offload["activations"] in fates.values() for fates in layers), layers
        for key in ("prefetch", "io_backend"):
            if key in self.offload:
                assert plan[key] == self.offload[key], key


MEMORY = Setting("memory", "cpu", residence("host", activations="keep"))
DISK = Setting("disk", "cpu", residence("disk", activations="keep", io_backend="uring", prefetch=4))
EMULATED_HOST = Setting("emulated_host", "emulated", residence("host", activations="host"))
EMULATED_DISK = Setting("emulated_disk", "emulated", residence("disk", activations="disk", prefetch=1))
EMULATED_DEVICE = Setting("emulated_device", "emulated", residence("device", activations="keep"))
DISK_RECOMPUTE = Setting("disk_recompute", "cpu", residence("disk", activations="recompute"))

FEW = (MEMORY, DISK, EMULATED_HOST, EMULATED_DISK, DISK_RECOMPUTE)
ALL = FEW + (
    Setting("emulated_keep", "emulated", residence("host", activations="keep")),
    EMULATED_DEVICE,
    Setting("emulated_device_weights", "emulated", {"params": "device", "gradients": "host", "optimizer": "host",
                                                    "activations": "keep"}),
    Setting("emulated_recompute", "emulated", residence("host", activations="recompute")),
    Setting("disk_thread", "cpu", residence("disk", activations="keep", io_backend="thread", prefetch=4)),
    Setting("disk_prefetch_1", "cpu", residence("disk", activations="keep", io_backend="uring", prefetch=1)),
    Setting("disk_activations_host", "cpu", residence("disk", activations="host")),
    Setting("disk_activations_disk", "cpu", residence("disk", activations="disk")),
    Setting("memory_recompute", "cpu", residence("host", activations="recompute")),
    Setting("optimizer_disk", "cpu", {"params": "host", "gradients": "host", "optimizer": "disk", "activations": "keep"}),
)


# On a GPU the plans of the emulated one run there, and are compared with each other: a CPU's bits are others.
if os.environ.get("SLUICE_TEST_DEVICE") == "cuda":
    FEW = ALL = tuple(replace(setting, device="cuda") for setting in ALL if setting.device == "emulated")
    EMULATED_DEVICE = next(setting for setting in ALL if setting.name == EMULATED_DEVICE.name)


def plan_of(run):
    """The decisions alone: reasons may name folders, and what is predicted differs between any two runs."""
    plan = yaml.safe_load(run.plan_text())
    plan.pop("reasons")
    plan.pop("predicted")
    return plan


def assert_plans_differ(plans):
    names = sorted(plans)
    for i, first in enumerate(names):
        for second in names[i + 1:]:
            assert plans[first] != plans[second], f"{first} and {second} ran by the same plan: the test compares nothing"
