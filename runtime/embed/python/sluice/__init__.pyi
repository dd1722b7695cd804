from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

__version__: str

Row = Any  # token ids [N], (token ids [N], labels [N]), or a mapping with input_ids, labels, attention_mask

class JobError(ValueError): ...
class TrainingError(RuntimeError): ...

class Step:
    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    step_seconds: float
    tokens_per_second: float
    bound_seconds: float
    percent_of_bound: float
    binding_lane: str
    device_peak_bytes: int
    host_peak_bytes: int
    disk_read_bytes: int
    disk_write_bytes: int
    skipped: bool

class Checkpoint:
    folder: Path
    step: int

class Validated:
    loss: float
    step: int

class Plan:
    steps: int
    step_seconds: float
    bound_seconds: float
    binding_lane: str
    percent_of_bound: float
    tokens_per_second: float
    seconds: float
    device_peak_bytes: int
    host_peak_bytes: int
    disk_peak_bytes: int
    disk_read_bytes: int
    disk_write_bytes: int
    text: str
    json: str

class LossChunk(NamedTuple):
    step: int
    micro_batch: int
    token_ids: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]

class Parameter:
    name: str
    shape: tuple[int, ...]
    trained: bool

def plan(
    model_dir: str | PathLike[str] | None,
    args: Mapping[str, Any] | str | PathLike[str],
    *,
    train_dataset: Iterable[Row] | None = None,
) -> Plan: ...

class Trainer:
    def __init__(
        self,
        model_dir: str | PathLike[str] | None,
        args: Mapping[str, Any] | str | PathLike[str],
        *,
        train_dataset: Iterable[Row] | None = None,
        on_step: Callable[[Step], object] | None = None,
        on_checkpoint: Callable[[Checkpoint], object] | None = None,
        on_validation: Callable[[Validated], object] | None = None,
        should_stop: Callable[[], bool] | None = None,
        data_name: str = "data",
        loss: Callable[[torch.Tensor, torch.Tensor, LossChunk], torch.Tensor] | None = None,
        loss_name: str = "loss",
    ) -> None: ...
    def train(self) -> bool: ...
    def step(self) -> Step: ...
    def evaluate(self, eval_dataset: Iterable[Row] | None = None) -> float: ...
    def save(self) -> Path | None: ...
    def finish(self) -> None: ...
    def stop(self) -> Path | None: ...
    def request_stop(self) -> None: ...
    def parameters(self) -> list[Parameter]: ...
    def read_parameter(self, name: str) -> npt.NDArray[np.float32]: ...
    def write_parameter(self, name: str, values: torch.Tensor | npt.ArrayLike) -> None: ...
    def view_parameter(self, name: str) -> torch.Tensor | None: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def output_dir(self) -> Path: ...
    @property
    def steps_done(self) -> int: ...
    @property
    def steps_total(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Trainer: ...
    def __exit__(self, *_: object) -> None: ...
