from collections.abc import Callable, Mapping
from os import PathLike
from types import SimpleNamespace
from typing import Any

from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import TrainOutput

def job_keys(args: TrainingArguments, rows: int) -> dict[str, Any]: ...

class Trainer:
    model: PreTrainedModel | str | PathLike[str]
    args: TrainingArguments
    state: SimpleNamespace
    def __init__(
        self,
        model: PreTrainedModel | str | PathLike[str] | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        sluice: Mapping[str, Any] | None = None,
        **unsupported: Any,
    ) -> None: ...
    def train(self, resume_from_checkpoint: bool | str | PathLike[str] | None = None) -> TrainOutput: ...
    def evaluate(self, eval_dataset: Any = None) -> dict[str, float]: ...
    def save_model(self, output_dir: str | PathLike[str] | None = None) -> None: ...
