import os

import pytest
import torch
import transformers

from . import tiny_models

# The judge computes with one thread: its sums are then the same on every machine, and tiny models are fastest so.
torch.set_num_threads(1)
transformers.logging.disable_progress_bar()


class Workshop:
    """Models and rows shared by the tests of one session."""

    def __init__(self, directory):
        self.directory = directory
        self.cache = directory / "token_cache"
        self.rows_file = tiny_models.write_rows(directory / "rows.jsonl", 400)

    def model(self, tiny):
        path = self.directory / tiny.name
        return path if path.exists() else tiny_models.write_model(tiny, path)

    def rows(self, model_dir):
        return tiny_models.expected_rows(self.rows_file, model_dir)

    def job(self, model_dir, recipe, **keys):
        device = os.environ.get("SLUICE_TEST_DEVICE")
        return {
            "base_model": str(model_dir),
            "datasets": [{"path": str(self.rows_file), "type": "completion"}],
            "dataset_prepared_path": str(self.cache),
            "sequence_len": tiny_models.ROW_TOKENS_MAX,
            "curriculum_sampling": True,
            **({"device": device} if device else {}),
            **recipe.yaml(),
            **keys,
        }


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("workshop"))
