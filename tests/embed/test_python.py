"""`import sluice` gives the bits of `sluice train`, Python's ways with errors, and nothing that hangs."""

import re
import signal
import subprocess
import sys
import time

import pytest
from equivalence import outcome
from faults.live_run import ENOSPC, LiveRun
from golden import sluice_run

from .conftest import environment, needs_module
from .test_cpp import run_of

pytestmark = needs_module
START = "import sluice\n"


def own(job, **more):
    """The job's keys without those of its datasets."""
    return {**{key: value for key, value in job.items() if key not in ("datasets", "dataset_prepared_path")}, **more}


def test_the_same_bits_as_the_binary(run_python, job, judged, rows, tmp_path):
    done = run_python(START + "sluice.Trainer(None, keys, train_dataset=rows).train()",
                      keys=own(job, output_dir=str(tmp_path / "out")), rows=rows)
    assert done.returncode == 0, done.stderr
    outcome.assert_identical(judged, run_of(tmp_path), "Python's rows")


def test_a_job_file_gives_the_same_bits_too(run_python, job, judged, tmp_path):
    file = sluice_run.write_job(tmp_path / "job.yaml", {**job, "output_dir": str(tmp_path / "out")})
    done = run_python(START + "assert sluice.Trainer(None, file).train()", file=str(file))
    assert done.returncode == 0, done.stderr
    outcome.assert_identical(judged, run_of(tmp_path), "a job file from Python")


@pytest.mark.parametrize("form", (
    "((torch.tensor(a), torch.tensor(b)) for a, b in rows)",
    "({'input_ids': np.array(a, np.int32), 'labels': b, 'attention_mask': [1] * len(a)} for a, b in rows)",
    "({'input_ids': [0] + a, 'labels': [5] + b, 'attention_mask': [0] + [1] * len(a)} for a, b in rows)",
), ids=("tensors", "mappings", "padded"))
def test_a_generator_of_any_form_gives_the_same_bits(run_python, job, judged, rows, tmp_path, form):
    keys = own(job, output_dir=str(tmp_path / "out"))
    del keys["curriculum_sampling"]
    done = run_python("import numpy as np\nimport torch\n" + START +
                      f"sluice.Trainer(None, keys, train_dataset={form}).train()", keys=keys, rows=rows)
    assert done.returncode == 0, done.stderr
    outcome.assert_identical(judged, run_of(tmp_path), form)


STEPWISE = START + """
said = []
trainer = sluice.Trainer(model, keys, train_dataset=rows, on_step=said.append)
assert trainer.plan.steps == 10 and trainer.plan.tokens_per_second > 0, trainer.plan
while trainer.steps_done < trainer.steps_total:
    assert trainer.step().step == trainer.steps_done
    if trainer.steps_done == 4:
        loss = trainer.evaluate(rows[:7])
        folder = trainer.save()
        assert folder.name == "checkpoint-4", folder
trainer.finish()
assert [step.step for step in said] == list(range(1, 11))
assert trainer.evaluate(rows[:7]) < loss < 20
import torch
array = trainer.read_parameter("model.norm.weight")
tensor = torch.from_dlpack(array)
assert tensor.data_ptr() == array.ctypes.data and tensor.dtype == torch.float32
from safetensors.torch import load_file
assert torch.equal(tensor, load_file(trainer.output_dir / "model.safetensors")["model.norm.weight"].float())
trainer.close()
try:
    trainer.step()
except sluice.JobError as error:
    assert isinstance(error, ValueError) and "has been closed\\n  fix: " in str(error), error
else:
    raise SystemExit("use after close")
"""


def test_step_by_step_with_reading_between_gives_the_same_bits(run_python, job, judged, rows, tmp_path):
    keys = own(job, output_dir=str(tmp_path / "out"))
    model = keys.pop("base_model")
    done = run_python(STEPWISE, keys=keys, rows=rows, model=model)
    assert done.returncode == 0, done.stderr
    outcome.assert_identical(judged, run_of(tmp_path), "step by step")


SCRIPT = START + """
trainer = sluice.Trainer(None, keys, train_dataset=rows, on_step=lambda step: print(step.step, step.loss))
trainer.train()
"""


def test_a_script_of_a_few_lines_leaves_what_the_binary_leaves_and_says_nothing_else(run_python, job, judged, rows, tmp_path):
    done = run_python(SCRIPT, keys=own(job, output_dir=str(tmp_path / "out")), rows=rows)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 10, done.stderr
    outcome.assert_identical(judged, run_of(tmp_path), "a script")
    files = [sorted(path.relative_to(folder).as_posix().count("/") for path in folder.rglob("*"))
             for folder in (tmp_path / "out", judged.output_dir)]
    assert files[0] == files[1], sorted((tmp_path / "out").rglob("*"))


VIEWS = START + """
import gc
import torch
keys["offload"] = {"params": "host", "optimizer": "host"}
trainer = sluice.Trainer(None, keys, train_dataset=rows)
name = "model.layers.0.mlp.up_proj.weight"
for _ in range(3):
    trainer.step()
one, two = trainer.view_parameter(name), trainer.view_parameter(name)
assert one.dtype == torch.bfloat16 and one.data_ptr() == two.data_ptr(), "a copy"
assert torch.equal(one.float(), torch.from_dlpack(trainer.read_parameter(name)))
row = one[0]
del one, two
gc.collect()
try:
    trainer.close()
except sluice.JobError as error:
    print(error)
del row
gc.collect()
trainer.train()
trainer.close()
keys["offload"] = {"params": "disk"}
keys["output_dir"] += "2"
with sluice.Trainer(None, keys, train_dataset=rows) as other:
    assert other.view_parameter(name) is None
"""


def test_a_tensor_in_ram_is_shared_and_keeps_its_memory(run_python, job, judged, rows, tmp_path):
    done = run_python(VIEWS, keys=own(job, output_dir=str(tmp_path / "out")), rows=rows)
    assert done.returncode == 0, done.stderr
    assert "close() while tensors lie in the Trainer's memory" in done.stdout
    outcome.assert_identical(judged, run_of(tmp_path), "a run whose tensors were looked at")


RAISES = START + """
def on_step(step):
    if step.step == 3:
        raise KeyError("the callback's own")
try:
    sluice.Trainer(None, keys, train_dataset=rows, on_step=on_step).train()
except KeyError as error:
    assert error.args == ("the callback's own",)
    print("raised")
keys["auto_resume_from_checkpoints"] = True
trainer = sluice.Trainer(None, keys, train_dataset=rows)
assert trainer.steps_done == 3
trainer.train()
"""


def test_what_a_callback_raises_comes_out_with_a_checkpoint_to_go_on_from(run_python, job, judged, rows, tmp_path):
    # The first Trainer is gone by then: nothing but the exception held it.
    done = run_python(RAISES, keys=own(job, output_dir=str(tmp_path / "out")), rows=rows)
    assert done.returncode == 0, done.stderr
    assert "raised" in done.stdout
    outcome.assert_identical(judged, run_of(tmp_path), "a run whose callback raised, resumed")


@pytest.mark.parametrize(("dataset", "error", "text"), (
    ("['text'] * 9", "TypeError", "row 0 of the dataset: str\n  fix: give (token ids, labels)"),
    ("[([1.5, 2.5, 3.5], [1, 2, 3])] * 9", "TypeError", "token ids are list of shape (3,) and type float64"),
    ("[([1, 2, 3], [1, 2])] * 9", "ValueError", "3 token ids and 2 labels"),
    ("[([1, 2, 10**10], [1, 2, 3])] * 9", "ValueError", "token ids do not fit 32 bits"),
    ("[([1, 2, 100000], [1, 2, 3])] * 9", "JobError", "token 100000 at position 2 is outside the model's vocabulary"),
    ("[{'ids': [1, 2]}] * 9", "TypeError", "a mapping with ids"),
    ("[]", "JobError", "the data has no rows"),
    ("(row for row in rows[:7])", "JobError", "the data ends before step 3"),
    ("'rows.jsonl'", "TypeError", "train_dataset is str"),
    ("5", "TypeError", "train_dataset is int, which is no iterable"),
))
def test_wrong_data_is_an_exception_that_names_it(run_python, job, rows, tmp_path, dataset, error, text):
    keys = own(job, output_dir=str(tmp_path / "out"))
    if dataset.startswith("("):
        del keys["curriculum_sampling"]
    done = run_python(START + f"sluice.Trainer(None, keys, train_dataset={dataset}).train()", keys=keys, rows=rows)
    assert done.returncode == 1
    assert text in done.stderr and re.search(rf"^(sluice\._sluice\.)?{error}: ", done.stderr, re.M), done.stderr


def test_an_error_of_the_job_has_the_binary_s_text(run_python, job, tmp_path):
    file = sluice_run.write_job(tmp_path / "job.yaml", {**job, "output_dir": str(tmp_path / "out"), "learning_rat": 1})
    binary = sluice_run.sluice("train", file)
    done = run_python(START + """
try:
    sluice.Trainer(None, file)
except sluice.JobError as error:
    print(error)
""", file=str(file))
    assert binary.stderr.strip().removeprefix("sluice: ") == done.stdout.strip() != ""


WAITS = START + """
import sys
import threading
threading.stack_size()
beside = []
def count():
    while not ended.wait(0.002):
        beside.append(None)
ended = threading.Event()
thread = threading.Thread(target=count)
thread.start()
def on_step(step):
    print(step.step, flush=True)
try:
    sluice.Trainer(None, keys, train_dataset=rows, on_step=on_step).train()
except KeyboardInterrupt:
    print("interrupted", flush=True)
finally:
    ended.set()
    print("beside", len(beside), flush=True)
"""


def test_ctrl_c_is_honoured_and_the_gil_is_free_while_steps_run(job, judged, rows, tmp_path):
    script = tmp_path / "program.py"
    keys = own(job, output_dir=str(tmp_path / "out"))
    script.write_text(f"keys = {keys!r}\nrows = {rows!r}\n{WAITS}")
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment())
    for line in process.stdout:
        if line.strip() == "3":
            process.send_signal(signal.SIGINT)
            break
    stdout, stderr = process.communicate(timeout=sluice_run.COMMAND_SECONDS_MAX)
    assert process.returncode == 0, stderr
    assert "interrupted" in stdout
    assert int(re.search(r"beside (\d+)", stdout)[1]) > 0, "another thread stood still while steps ran"
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    assert 3 <= int(checkpoint.name.split("-")[1]) < 10
    resumed = sluice_run.Run(tmp_path / "out", 0, "", "")
    script.write_text(f"keys = {keys!r}\nrows = {rows!r}\n{START}"
                      "sluice.Trainer(None, {**keys, 'auto_resume_from_checkpoints': True}, train_dataset=rows).train()")
    subprocess.run([sys.executable, script], check=True, env=environment())
    outcome.assert_identical(judged, resumed, "an interrupted run, resumed")


WAITS_FOR_ROOM = START + """
trainer = sluice.Trainer(None, keys, train_dataset=rows)
try:
    {calls}
except KeyboardInterrupt:
    print("interrupted", flush=True)
try:
    trainer.step()
except sluice.TrainingError as error:
    print(error)
"""


@pytest.mark.parametrize("calls", ("trainer.train()", "while True: trainer.step()"), ids=("train", "step"))
@pytest.mark.parametrize("waits", ("write .extents", "write .partial/"))
def test_ctrl_c_ends_a_wait_for_room(run_python, job, judged, rows, tmp_path, calls, waits):
    keys = own(job, output_dir=str(tmp_path / "out"), save_steps=2, offload={**job["offload"], "io_backend": "thread"})
    script = tmp_path / "waits.py"
    script.write_text(f"keys = {keys!r}\nrows = {rows!r}\n{WAITS_FOR_ROOM.format(calls=calls)}")
    (tmp_path / "trigger").symlink_to(tmp_path / "out" / "checkpoint-2")
    run = LiveRun(keys, tmp_path, f"{waits} {ENOSPC}", [sys.executable, script], environment=environment())
    run.wait_for_line("paused: no space left")
    begin = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    run = run.finish()
    assert time.monotonic() - begin < 15, "it waited for its next try"
    assert run.stdout.startswith("interrupted\nno space left on the file system "), run.stdout
    run_python(START + "sluice.Trainer(None, {**keys, 'auto_resume_from_checkpoints': True}, train_dataset=rows).train()",
               keys=keys, rows=rows).check_returncode()
    outcome.assert_identical(judged, run_of(tmp_path), "a run whose wait for room was interrupted, resumed")


TWO = START + """
one = sluice.Trainer(None, {**keys, "output_dir": out + "1"}, train_dataset=rows)
one.step()
try:
    sluice.Trainer(None, {**keys, "output_dir": out + "2"}, train_dataset=rows)
except sluice.JobError as error:
    print(error)
one.train()
import os
if os.fork() == 0:
    try:
        one.parameters()
    except sluice.JobError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


def test_two_trainers_on_one_swap_folder_and_a_fork(run_python, job, rows, tmp_path):
    (tmp_path / "swap").mkdir()
    keys = own(job)
    keys["offload"] = {**keys["offload"], "nvme_path": [str(tmp_path / "swap")]}
    done = run_python(TWO, keys=keys, rows=rows, out=str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "swap") in done.stdout.splitlines()[0], done.stdout
    assert "belongs to the process that this one was forked from" in done.stdout
    assert (tmp_path / "out1" / "model.safetensors").exists()


TEN_LINES = """
import sluice
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
rows = [(tokenizer.encode(text).ids, None) for text in texts]
trainer = sluice.Trainer(model, {"output_dir": out, "sequence_len": 64, "learning_rate": 1e-3, "num_epochs": 2, "bf16": True,
                                 "offload": {"params": "disk", "optimizer": "disk"}}, train_dataset=rows,
                         on_step=lambda step: print(step.loss))
trainer.train()
"""


def test_ten_lines_fine_tune_smollm2_s_shape_on_disk(run_python, workshop, tmp_path):
    from equivalence import jobs
    from transformers import AutoModelForCausalLM
    assert len(TEN_LINES.strip().splitlines()) <= 10
    done = run_python(TEN_LINES, model=str(workshop.model(jobs.SMOLLM2_LIKE)), out=str(tmp_path / "out"),
                      texts=["the river runs to the sea", "a stone in the river"] * 4)
    assert done.returncode == 0, done.stderr
    losses = [float(line) for line in done.stdout.split()]
    assert len(losses) == 16 and losses[-1] < losses[0]
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


LONGER = START + """
trainer = sluice.Trainer(None, keys)
trainer.step()
before = trainer.evaluate([[3, 4, 5]])
try:
    trainer.evaluate([[3] * 60])
except sluice.JobError as error:
    print(error)
assert trainer.evaluate([[3, 4, 5]]) == before
trainer.close()
"""


def test_an_evaluation_keeps_to_what_the_job_was_planned_for(run_python, job, tmp_path):
    """Its arenas are as large as its longest rows, whatever sequence_len would allow."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "the disk reads"}\n' * 60)
    done = run_python(LONGER, keys={**job, "sequence_len": 64, "datasets": [{"path": str(file), "type": "completion"}],
                                    "output_dir": str(tmp_path / "out")})
    assert done.returncode == 0, done.stderr
    assert re.search(r"document of 60 tokens\n  fix: the job's longest row has \d+: cut the document", done.stdout), done.stdout
