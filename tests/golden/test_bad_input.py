"""Bad input, end to end: one message with file, line or offset and the fix, exit code 2, nothing written."""

import json
import re
import shutil
import struct
import subprocess

import pytest
import safetensors.torch
import torch
import yaml
from golden import sluice_run, tiny_models

EXIT_SETUP, EXIT_RUN = 2, 3
MODEL = tiny_models.BY_NAME["llama_linear_biased"]


class Case:
    """A job that works, in a folder of its own, for a test to break."""

    def __init__(self, workshop, directory):
        self.directory = directory
        self.model = directory / "model"
        shutil.copytree(workshop.model(MODEL), self.model)
        self.data = tiny_models.write_rows(directory / "rows.jsonl", 12)
        self.output = directory / "out"
        self.job = {
            "base_model": str(self.model),
            "datasets": [{"path": str(self.data), "type": "completion"}],
            "dataset_prepared_path": str(workshop.directory / "bad_input_cache"),
            "sequence_len": 48,
            "micro_batch_size": 2,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "output_dir": str(self.output),
        }

    @property
    def weights(self):
        return self.model / "model.safetensors"

    def edit_config(self, **fields):
        path = self.model / "config.json"
        config = json.loads(path.read_text())
        config.update(fields)
        path.write_text(json.dumps(config, indent=2))

    def edit_header(self, change):
        data = self.weights.read_bytes()
        length = struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8:8 + length])
        change(header)
        text = json.dumps(header).encode()
        self.weights.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length:])

    def edit_tensors(self, change):
        tensors = safetensors.torch.load_file(self.weights)
        change(tensors)
        safetensors.torch.save_file(tensors, self.weights, metadata={"format": "pt"})

    def write_job(self, text=None):
        path = self.directory / "job.yaml"
        path.write_text(text or yaml.safe_dump(self.job, sort_keys=False))
        return path

    def line_of(self, key):
        lines = yaml.safe_dump(self.job, sort_keys=False).splitlines()
        return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(key + ":"))

    def tree(self):
        return {str(path.relative_to(self.directory)): path.read_bytes() if path.is_file() else None
                for path in sorted(self.directory.rglob("*"))}

    def refused(self, *patterns, exit_code=EXIT_SETUP, text=None, command="train"):
        """Every pattern must be in the one message; nothing may have been written."""
        job = self.write_job(text)
        before = self.tree()
        done = sluice_run.sluice(command, job)
        message = done.stderr
        print(message)
        assert done.returncode == exit_code, f"exit code {done.returncode}\n{done.stdout}\n{message}"
        for pattern in patterns:
            assert re.search(pattern, message), f"no /{pattern}/ in:\n{message}"
        assert len(re.findall(r"(?m)^sluice: ", message)) == 1, f"not one message:\n{message}"
        assert re.search(r"(?m)^\s*fix: \S", message), f"no fix in:\n{message}"
        assert "Traceback" not in message and "terminate called" not in message
        after = self.tree()
        assert after.keys() == before.keys(), f"written: {sorted(after.keys() - before.keys())}"
        assert after == before, "a file was changed"
        return message


@pytest.fixture
def case(workshop, tmp_path):
    return Case(workshop, tmp_path)


def test_the_unbroken_job_trains(case):
    """Else every refusal below could have another reason."""
    done = sluice_run.sluice("train", case.write_job())
    assert done.returncode == 0, done.stderr
    assert (case.output / "model.safetensors").exists()


# --- the job file

def test_a_misspelt_key_is_named_with_its_line_and_the_right_one(case):
    case.job["learning_rat"] = case.job.pop("learning_rate")
    case.refused(rf"job\.yaml:{case.line_of('learning_rat')}\b", "learning_rat'", "did you mean 'learning_rate'")


def test_a_misspelt_key_of_the_offload_block_is_named(case):
    case.job["offload"] = {"optimiser": "disk"}
    case.refused(rf"job\.yaml:{case.line_of('optimiser')}\b", "did you mean '(offload\\.)?optimizer'")


def test_a_wrong_type_is_named_with_its_line(case):
    case.job["micro_batch_size"] = "two"
    case.refused(rf"job\.yaml:{case.line_of('micro_batch_size')}\b", "micro_batch_size")


def test_a_wrong_choice_lists_the_choices(case):
    case.job["lr_scheduler"] = "cosin"
    case.refused(rf"job\.yaml:{case.line_of('lr_scheduler')}\b", "cosine", "linear", "constant")


def test_all_wrong_keys_are_named_in_one_message(case):
    case.job["learning_rat"] = case.job.pop("learning_rate")
    case.job["datasets"][0]["feild"] = "text"
    case.job["wandb_project"] = "mine"
    message = case.refused(rf"job\.yaml:{case.line_of('learning_rat')}\b", "did you mean 'learning_rate'",
                           rf"job\.yaml:{case.line_of('feild')}\b", "did you mean 'field'",
                           rf"job\.yaml:{case.line_of('wandb_project')}\b", "nothing is sent anywhere")
    assert message.count("fix:") == 3


def test_lora_settings_without_lora_are_refused(case):
    case.job["lora_dropout"] = 0.1
    case.refused(rf"job\.yaml:{case.line_of('lora_dropout')}\b", "adapter: lora")


def test_yaml_that_is_none_is_named_with_its_line(case):
    case.refused(r"job\.yaml:2\b", text="base_model: x\n  - y: [\n")


def test_a_missing_key_is_named(case):
    del case.job["learning_rate"]
    case.refused("learning_rate")


def test_lora_without_a_target_is_refused(case):
    case.job.update(adapter="lora", lora_r=4, lora_alpha=8)
    case.refused("lora_target_modules", "lora_target_linear")


def test_a_lora_target_that_matches_nothing_lists_what_exists(case):
    case.job.update(adapter="lora", lora_r=4, lora_alpha=8, lora_target_modules=["q_prj"])
    case.refused("q_prj", "q_proj")


# --- the model

def test_a_base_model_that_is_not_there_is_named(case):
    case.job["base_model"] = str(case.directory / "nowhere")
    case.refused("nowhere")


def test_missing_safetensors_are_named(case):
    case.weights.unlink()
    case.refused(re.escape(str(case.model)), "safetensors")


def test_truncated_safetensors_are_named_with_the_first_tensor_cut(case):
    with open(case.weights, "r+b") as file:
        file.truncate(case.weights.stat().st_size - 1000)
    case.refused(re.escape(str(case.weights)), r"tensor '.*' end past the data|tensor '.*truncated")


def test_a_truncated_header_is_named(case):
    with open(case.weights, "r+b") as file:
        file.truncate(40)
    case.refused(re.escape(str(case.weights)))


def test_overlapping_tensors_are_named(case):
    def overlap(header):
        begin, end = header["model.norm.weight"]["data_offsets"]
        header["model.norm.weight"]["data_offsets"] = [begin - 2, end - 2]
    case.edit_header(overlap)
    case.refused(re.escape(str(case.weights)), r"model\.norm\.weight", r"overlap|offset")


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(case):
    case.edit_tensors(lambda t: t.update({"model.layers.1.mlp.up_proj.weight": torch.zeros(75, 48, dtype=torch.bfloat16)}))
    case.refused(r"model\.layers\.1\.mlp\.up_proj\.weight", r"75", r"76")


def test_a_tensor_of_the_wrong_dtype_is_named(case):
    case.edit_tensors(lambda t: t.update({"model.norm.weight": torch.ones(48, dtype=torch.int64)}))
    case.refused(re.escape(str(case.weights)), r"model\.norm\.weight", "I64|i64|int64")


def test_a_missing_tensor_is_named(case):
    case.edit_tensors(lambda t: t.pop("model.layers.2.self_attn.k_proj.bias"))
    case.refused(r"model\.layers\.2\.self_attn\.k_proj\.bias")


def test_a_missing_shard_is_named(case, workshop):
    shutil.rmtree(case.model)
    shutil.copytree(workshop.model(tiny_models.BY_NAME["llama_llama3"]), case.model)
    shards = sorted(case.model.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()
    case.refused(re.escape(shards[1].name))


def test_a_config_field_that_changes_the_arithmetic_is_refused_by_name(case):
    case.edit_config(logit_scale=0.5)
    case.refused(r"config\.json", "logit_scale")


def test_a_config_value_that_is_not_supported_is_refused_by_name(case):
    case.edit_config(hidden_act="gelu")
    case.refused(r"config\.json", "hidden_act", "gelu")


def test_an_unknown_family_is_refused_with_those_that_work(case):
    case.edit_config(model_type="gpt2", architectures=["GPT2LMHeadModel"])
    case.refused(r"config\.json", "gpt2", "llama", "qwen3")


def test_sequence_len_above_the_models_is_refused(case):
    case.job["sequence_len"] = 65
    case.refused("sequence_len", "65", "64")


# --- the data

def test_a_row_that_is_no_json_is_named_with_its_line(case):
    lines = case.data.read_text().splitlines()
    lines[4] = lines[4][:-1]
    case.data.write_text("\n".join(lines) + "\n")
    case.refused(r"rows\.jsonl:5\b")


def test_a_row_without_its_field_is_named_with_its_line(case):
    lines = case.data.read_text().splitlines()
    lines[6] = json.dumps({"txt": "no text here"})
    case.data.write_text("\n".join(lines) + "\n")
    case.refused(r"rows\.jsonl:7\b", "text")


@pytest.mark.parametrize("row, patterns", (
    (b'{"text": 7}', ("'text' must be text, not 7",)), (b"[1]", ("must be a JSON object",)),
    (b'{"text": null}', ("'text' is null",)), (b'{"text": "\xe9"}', ("not UTF-8", "iconv"))))
def test_a_wrong_row_is_named_with_its_line(case, row, patterns):
    lines = case.data.read_bytes().splitlines()
    lines[6] = row
    case.data.write_bytes(b"\n".join(lines) + b"\n")
    case.refused(r"rows\.jsonl:7\b", *patterns)


def test_an_empty_dataset_is_refused(case):
    case.data.write_text("")
    case.refused(r"rows\.jsonl: holds no rows")


def test_a_truncated_parquet_file_is_refused(case):
    import pyarrow
    import pyarrow.parquet
    path = case.directory / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": f"row {i}"} for i in range(50)]), path)
    path.write_bytes(path.read_bytes()[:-40])
    case.job["datasets"][0]["path"] = str(path)
    case.refused(r"rows\.parquet: cannot be read as Parquet", "cut short")


CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"


def as_chat(case, row):
    (case.model / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    case.data.write_text(json.dumps(row) + "\n")
    case.job["datasets"][0]["type"] = "chat_template"


@pytest.mark.parametrize("turns, said", (
    ([], "'messages' is empty"), ([{"role": "user", "content": "q"}, {"role": "gpt4", "content": "a"}], "role 'gpt4'"),
    ([{"role": "user", "content": None}], "'content' is null")))
def test_a_wrong_conversation_is_named_with_its_line(case, turns, said):
    as_chat(case, {"messages": turns})
    case.refused(r"rows\.jsonl:1\b", said)


def test_axolotls_chat_keys_train(case):
    turns = [{"from": "human", "value": "the disk"}, {"from": "gpt4", "value": "reads"}]
    as_chat(case, {"talk": turns})
    case.data.write_text(case.data.read_text() * 4)
    case.job["datasets"][0].update(field_messages="talk", message_property_mappings={"role": "from", "content": "value"},
                                   roles={"assistant": ["gpt4"], "user": ["human"]})
    done = sluice_run.sluice("train", case.write_job())
    assert done.returncode == 0, done.stderr


def test_a_validation_share_larger_than_the_dataset_is_refused(case):
    case.job["val_set_size"] = 100
    case.refused(r"rows\.jsonl: val_set_size 100 leaves nothing of 14 rows", "at most 13")


def test_a_broken_tokenizer_is_refused(case):
    (case.model / "tokenizer.json").write_text('{"version": ')
    case.refused(r"tokenizer\.json", "copy or fetch it again")


def test_a_dataset_that_is_not_there_is_named(case):
    case.job["datasets"][0]["path"] = str(case.directory / "gone.jsonl")
    case.refused(r"gone\.jsonl")


def test_a_dataset_without_a_supervised_token_is_refused(case):
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    (case.model / "chat_template.jinja").write_text(template)
    case.data.write_text(json.dumps({"messages": [{"role": "user", "content": "nobody answers"}]}) + "\n")
    case.job["datasets"][0]["type"] = "chat_template"
    case.refused("mask|supervised|trained on", r"rows\.jsonl")


# --- the output directory and the caps

def test_an_output_dir_that_is_not_empty_is_refused(case):
    case.output.mkdir()
    (case.output / "thesis.txt").write_text("years of work")
    case.refused(re.escape(str(case.output)), "resume|empty")


def test_an_output_dir_that_is_a_file_is_refused(case):
    case.output.write_text("years of work")
    case.refused(re.escape(f"{case.output} is not a folder"), "fix: give output_dir a folder")


def test_a_checkpoint_to_resume_from_that_is_not_there_is_named(case):
    case.job["resume_from_checkpoint"] = str(case.directory / "checkpoint-7")
    case.refused("checkpoint-7")


def everything_on_disk():
    return {"params": "disk", "gradients": "disk", "optimizer": "disk"}


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(case):
    small = case.directory / "small_disk"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    try:
        case.job["offload"] = {**everything_on_disk(), "nvme_path": [str(small)]}
        case.refused(re.escape(str(small)), r"\d+(\.\d+)? ?[KMG]iB")
    finally:
        subprocess.run(["umount", small], check=True)


SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(bytes|KiB|MiB|GiB)\b")


@pytest.mark.parametrize("nonsense", ("lots", "-4GiB", "22", "1e400GiB", "nanGiB", "4 GiBs"))
def test_a_cap_that_is_no_size_is_refused_with_an_example(case, nonsense):
    case.job["offload"] = {"max_cpu": nonsense}
    case.refused(rf"job\.yaml:{case.line_of('max_cpu')}\b.*size above 0 with its unit", "22GiB")


@pytest.mark.parametrize("cap, device, too_small", (("max_cpu", "cpu", "1MiB"), ("max_disk", "cpu", "64KiB"),
                                                     ("max_gpu", "emulated", "64KiB")))
def test_a_cap_that_is_too_small_is_refused_with_the_smallest_that_works(case, cap, device, too_small):
    case.job.update(device=device, offload={**everything_on_disk(), cap: too_small})
    message = case.refused(cap)
    fix = message[message.index("fix:"):]
    named = SIZE.search(fix)
    assert named, f"the fix names no size:\n{message}"
    unit = {"bytes": ""}.get(named[2], named[2])
    case.job["offload"][cap] = named[1] + unit
    done = sluice_run.sluice("train", case.write_job())
    assert done.returncode == 0, f"{cap}: {named[0]} was said to work\n{done.stderr}"


# --- the run itself

def test_a_loss_that_is_not_finite_stops_with_step_and_block_and_keeps_the_checkpoint(case):
    """A row of the embedding is poisoned, and only the rows of step 3 use it."""
    tokenizer = tiny_models.make_tokenizer()
    poison = "~"
    (token,) = tokenizer(poison)["input_ids"]

    def poison_embedding(tensors):
        tensors["model.embed_tokens.weight"][token] = float("nan")
    case.edit_tensors(poison_embedding)
    lines = case.data.read_text().splitlines()
    lines[5] = json.dumps({"text": f"the {poison} disk reads"})
    case.data.write_text("\n".join(lines) + "\n")
    case.job.update(max_steps=5, save_steps=1, curriculum_sampling=True)
    done = sluice_run.sluice("train", case.write_job())
    assert done.returncode == EXIT_RUN, done.stderr
    assert re.search(r"\bstep 3\b", done.stderr) and "embedding" in done.stderr, done.stderr
    assert re.search(r"not finite|NaN|nan|inf", done.stderr)
    assert (case.output / "checkpoint-2" / "trainer_state.json").exists()
    assert not (case.output / "model.safetensors").exists()
    log = (case.output / "trainer_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log[:2]] == [1, 2]


@pytest.mark.parametrize("arguments", (["train"], ["train", "no/such/job.yaml"], ["trian"], ["train", "--no-such-option"]))
def test_a_wrong_command_line_is_answered_with_the_right_one(arguments):
    done = sluice_run.sluice(*arguments)
    assert done.returncode == EXIT_SETUP, done
    assert done.stderr.strip() and "Traceback" not in done.stderr


def test_help_lists_every_command():
    done = sluice_run.sluice("--help")
    assert done.returncode == 0
    for command in ("train", "plan", "preprocess", "generate"):
        assert command in done.stdout
        assert sluice_run.sluice(command, "--help").returncode == 0
