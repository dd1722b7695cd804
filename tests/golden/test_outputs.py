"""What is saved loads in transformers and peft, and computes there what it computed here."""

import copy
import json
import warnings

import peft
import pytest
import torch
import transformers
from equivalence import jobs
from golden import parity, reference, sluice_run, tiny_models
from golden.reference import Recipe
from golden.test_parity import lora_keys, new_adapter

VALIDATION_ROWS = 20
LOSS_DIFFERENCE_MAX = 1e-5
LOGIT_DIFFERENCE_MAX = 1e-5
GENERATED_TOKENS = 12
PROMPTS = ("the disk reads", "every block", "so that the next answer is")
MODELS = ("llama_tied", "llama_linear_biased", "llama_yarn_untied", "mistral_window", "qwen2_tied", "qwen3_untied")
TARGETS = ["q_proj", "o_proj", "down_proj"]


@pytest.fixture(scope="module")
def full_runs(workshop, tmp_path_factory):
    return Runs(workshop, tmp_path_factory, {})


@pytest.fixture(scope="module")
def lora_runs(workshop, tmp_path_factory):
    return Runs(workshop, tmp_path_factory, {"adapter": "lora"})


class Runs:
    """One short training per model, shared by the tests of this file."""

    def __init__(self, workshop, tmp_path_factory, keys):
        self.workshop, self.tmp_path_factory, self.keys = workshop, tmp_path_factory, keys
        self.done = {}

    def of(self, name):
        if name not in self.done:
            directory = self.tmp_path_factory.mktemp(name)
            model_dir = self.workshop.model(tiny_models.BY_NAME[name])
            keys = dict(self.keys)
            if keys:
                adapter_dir = new_adapter(model_dir, directory / "adapter", TARGETS)
                keys = {**lora_keys(adapter_dir, TARGETS), "lora_dropout": 0.3}  # of training alone
            job = self.workshop.job(model_dir, Recipe(steps=8), val_set_size=VALIDATION_ROWS,
                                    dataset_prepared_path=str(directory / "cache"), **keys)
            self.done[name] = (model_dir, sluice_run.train(job, directory), directory / "cache")
        return self.done[name]


def load_without_complaint(directory):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True,
                                                                    dtype=torch.float32, attn_implementation="eager")
    assert not any(info.values()), info
    return model


def load_adapter_without_complaint(model_dir, adapter_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return peft.PeftModel.from_pretrained(reference.load(model_dir), adapter_dir)


def validation_loss(model, cache):
    rows = [documents[0] for documents in sluice_run.prepared(cache, "validation").rows]
    assert len(rows) == VALIDATION_ROWS
    ids, labels = zip(*rows)
    with torch.no_grad():
        return reference.loss_sum(model.eval(), ids, labels).item() / reference.supervised_tokens(labels)


def assert_same_answers(model, tokenizer, answer):
    """`answer`: prompt -> the text that Sluice adds to it."""
    model.eval()
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            theirs = model.generate(**ids, do_sample=False, max_new_tokens=GENERATED_TOKENS)[0, ids["input_ids"].shape[1]:]
        assert answer(prompt).strip("\n") == tokenizer.decode(theirs, skip_special_tokens=True).strip("\n"), prompt


def assert_same_logits(model, tokenizer, saved, tmp_path):
    """`saved`: what `sluice generate` takes for the result. Logits of 12 are 1.4e-5 off in the judge's own fp32."""
    exact = copy.deepcopy(model).double()
    for prompt in PROMPTS:
        ours = sluice_run.logits(saved, prompt, tmp_path / "logits.safetensors")
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        assert ours["token_ids"].tolist() == ids[0].tolist()
        with torch.no_grad():
            truth = exact.eval()(ids).logits[0]
            judge = (model.eval()(ids).logits[0] - truth).abs().max()
        assert (ours["logits"] - truth).abs().max() <= max(LOGIT_DIFFERENCE_MAX, 2 * judge), prompt


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_loads_in_transformers_and_gives_our_losses(full_runs, name):
    model_dir, run, cache = full_runs.of(name)
    losses = run.state()["validation_losses"]
    assert losses[0] == pytest.approx(validation_loss(reference.load(model_dir), cache), abs=LOSS_DIFFERENCE_MAX)
    assert losses[-1] == pytest.approx(validation_loss(load_without_complaint(run.output_dir), cache),
                                       abs=LOSS_DIFFERENCE_MAX)
    assert losses[-1] != losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_answers_in_transformers_as_it_does_here(full_runs, name):
    _, run, _ = full_runs.of(name)
    assert_same_answers(load_without_complaint(run.output_dir), transformers.AutoTokenizer.from_pretrained(run.output_dir),
                        lambda prompt: sluice_run.generate_greedily(run.output_dir, prompt, GENERATED_TOKENS))


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_has_our_logits_in_transformers(full_runs, name, tmp_path):
    _, run, _ = full_runs.of(name)
    assert_same_logits(load_without_complaint(run.output_dir), transformers.AutoTokenizer.from_pretrained(run.output_dir),
                       ["--model", run.output_dir], tmp_path)


@pytest.mark.parametrize("name", ("llama_tied", "mistral_window", "qwen3_untied"))
def test_a_saved_adapter_has_our_logits_in_peft(lora_runs, name, tmp_path):
    model_dir, run, _ = lora_runs.of(name)
    assert_same_logits(load_adapter_without_complaint(model_dir, run.output_dir),
                       transformers.AutoTokenizer.from_pretrained(run.output_dir),
                       ["--model", model_dir, "--adapter", run.output_dir], tmp_path)


@pytest.mark.parametrize("name", ("llama_tied", "mistral_window", "qwen3_untied"))
def test_a_saved_adapter_loads_in_peft_and_gives_our_losses(lora_runs, name):
    model_dir, run, cache = lora_runs.of(name)
    model = load_adapter_without_complaint(model_dir, run.output_dir)
    losses = run.state()["validation_losses"]
    assert losses[-1] == pytest.approx(validation_loss(model, cache), abs=LOSS_DIFFERENCE_MAX)
    assert parity.saved_tensors(run.output_dir).keys() == parity.adapter_weights(model).keys()
    assert_same_answers(model, transformers.AutoTokenizer.from_pretrained(run.output_dir),
                        lambda prompt: sluice_run.generate_greedily(model_dir, prompt, GENERATED_TOKENS, run.output_dir))


def test_a_result_is_a_whole_directory(full_runs):
    model_dir, run, _ = full_runs.of("llama_tied")
    names = {path.name for path in run.output_dir.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "plan.yaml",
            "trainer_state.json", "trainer_log.jsonl"} <= names
    base = json.loads((model_dir / "config.json").read_text())
    saved = json.loads((run.output_dir / "config.json").read_text())
    assert {k: v for k, v in saved.items() if "dtype" not in k} == {k: v for k, v in base.items() if "dtype" not in k}


def test_every_step_line_has_the_promised_fields(full_runs):
    _, run, _ = full_runs.of("llama_tied")
    promised = set("step loss grad_norm learning_rate tokens step_seconds tokens_per_second bound_seconds percent_of_bound "
                   "binding_lane device_peak_bytes host_peak_bytes disk_read_bytes disk_write_bytes".split())
    for line in run.log:
        assert promised <= line.keys()
        assert line["step_seconds"] > 0 and line["host_peak_bytes"] > 0
        assert line["binding_lane"] in ("compute", "h2d", "d2h", "read", "write", "optim")
        assert line["percent_of_bound"] == pytest.approx(100 * line["bound_seconds"] / line["step_seconds"], rel=1e-3)


def test_saves_and_evaluations_per_epoch_come_as_often_as_asked(workshop, tmp_path):
    job = jobs.job_of(workshop, jobs.TINY, "full", "fp32", max_steps=None, num_epochs=1, val_set_size=3,
                      gradient_accumulation_steps=1, saves_per_epoch=3, evals_per_epoch=2)
    run = sluice_run.train(job, tmp_path)
    steps = len(run.log)
    saved = sorted(int(path.name.removeprefix("checkpoint-")) for path in run.output_dir.glob("checkpoint-*"))
    assert steps >= 4 and saved == sorted({*range(-(-steps // 3), steps + 1, -(-steps // 3)), steps})
    between = range(-(-steps // 2), steps, -(-steps // 2))
    assert len(run.state()["validation_losses"]) == len(between) + 2
