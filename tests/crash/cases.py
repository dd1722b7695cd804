"""The jobs that are crashed: a second each, and between them everything that is written to a drive."""

from dataclasses import dataclass, field

from equivalence.jobs import METHODS, PRECISIONS
from golden import tiny_models
from golden.reference import Recipe

MODEL = tiny_models.TinyModel(
    "two_layers",
    "llama",
    {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
     "num_hidden_layers": 2, "tie_word_embeddings": False},
    stored="bfloat16",
    shard_bytes_max="120KB",
)
STEPS = 6
RECIPE = Recipe(rows_per_micro_batch=2, micro_batches=2, steps=STEPS, warmup_steps=1, grad_norm_max=1.5)
ON_DISK = {"params": "disk", "gradients": "disk", "optimizer": "disk", "activations": "keep"}
IN_MEMORY = {"params": "host", "gradients": "host", "optimizer": "host", "activations": "keep"}
# How checkpoints of states on disk are made, as keys of a job. One in place is void while a step runs.
CHECKPOINT_MODES = {"two_sets": {}, "in_place": {"checkpoint": "in_place"}}


@dataclass(frozen=True)
class Case:
    name: str
    method: str = "full"
    precision: str = "bf16"
    states: str = "fp32"
    offload: dict = field(default_factory=lambda: ON_DISK, hash=False)
    save_steps: int = 2
    save_total_limit: int = 2
    mode: str = "two_sets"
    keys: dict = field(default_factory=dict, hash=False)

    def job(self, workshop, output_dir):
        return {
            **workshop.job(workshop.model(MODEL), RECIPE),
            **METHODS[self.method],
            **PRECISIONS[self.precision],
            **CHECKPOINT_MODES[self.mode],
            "seed": 11,
            "device": "cpu",
            "offload": {**self.offload, "optimizer_state": self.states},
            "logging_steps": 1,
            "save_steps": self.save_steps,
            "save_total_limit": self.save_total_limit,
            "auto_resume_from_checkpoints": True,
            "output_dir": str(output_dir),
            **self.keys,
        }


ALL = (
    Case("full-fp32", precision="fp32"),
    Case("full-bf16", save_steps=1, save_total_limit=1),
    Case("full-bf16-states-bf16", states="bf16"),
    Case("full-bf16-states-8bit", states="8bit", save_total_limit=1),
    Case("full-in-place", save_total_limit=1, mode="in_place"),
    Case("full-in-place-late", offload={**ON_DISK, "update": "before_forward"}, save_steps=5, save_total_limit=1,
         mode="in_place"),
    Case("full-fp16", precision="fp16", save_steps=1),
    Case("full-speculating", states="8bit", offload={**ON_DISK, "update": "behind_backward"}),
    Case("full-in-memory", offload=IN_MEMORY, save_total_limit=1),
    Case("full-validated", offload={**ON_DISK, "activations": "disk"}, keys={"val_set_size": 4, "eval_steps": 2}),
    Case("lora", method="lora", save_steps=1, save_total_limit=2),
    Case("lora-states-8bit", method="lora", precision="fp16", states="8bit"),
    Case("qlora", method="qlora", save_total_limit=1),
    Case("dora", method="dora", states="bf16", save_steps=1, save_total_limit=1),
)
BY_NAME = {case.name: case for case in ALL}
