"""The command line from outside: help, options, exit codes. The runtime library is a stand-in that says what it was asked."""

import os
import re
import shutil
import subprocess
import time

import pytest

COMMANDS = ("train", "plan", "probe", "profile", "preprocess", "generate", "merge", "doctor", "fsck", "completion", "man")
EXIT_SETUP, EXIT_RUN = 2, 3


def sluice(*arguments, binary=None, **options):
    command = [binary or os.environ["SLUICE_FIXTURE_BINARY"], *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def job(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "data.jsonl").write_text("{}\n")
    path = tmp_path / "job.yaml"
    path.write_text(f"base_model: {tmp_path}/model\ndatasets: [{{path: {tmp_path}/data.jsonl, type: alpaca}}]\n"
                    "learning_rate: 1e-5\n")
    return path


def test_help_names_every_command():
    done = sluice("--help")
    assert done.returncode == 0 and done.stderr == ""
    for command in COMMANDS:
        assert re.search(rf"(?m)^  {command}\s", done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command):
    done = sluice(command, "--help")
    assert done.returncode == 0 and done.stderr == "" and f"sluice {command}" in done.stdout
    if command not in ("generate", "probe", "merge", "doctor", "fsck", "completion", "man"):
        assert "micro_batch_size (or per_device_train_batch_size)" in done.stdout


def test_the_version():
    done = sluice("--version")
    assert done.returncode == 0 and done.stdout == f"sluice {os.environ['SLUICE_VERSION']}\n"


def test_help_starts_at_once():
    """The best of several: the machine may be busy. LibTorch alone takes longer than this to load."""
    seconds = []
    for _ in range(10):
        begin = time.monotonic()
        assert sluice("train", "--help").returncode == 0
        seconds.append(time.monotonic() - begin)
    assert min(seconds) < 0.3, seconds


def test_the_real_binary_needs_no_libtorch():
    binary = os.environ.get("SLUICE_BINARY")
    if not binary:
        pytest.skip("built without LibTorch: there is no other binary than the stand-in's")
    needed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout
    assert "libyaml-cpp" in needed and "torch" not in needed and "sluice_runtime" not in needed
    assert sluice("train", "--help", binary=binary).returncode == 0


@pytest.mark.parametrize("arguments", (
    [], ["train"], ["plan"], ["profile"], ["preprocess"], ["generate"], ["--no-such-option"],
    ["profile", "job.yaml", "--steps", "0"],
    ["train", "job.yaml", "--no-such-option"], ["generate", "--model", "/"],
    ["generate", "--model", "/no/such/folder", "--prompt", "x"],
    ["generate", "--model", "/", "--prompt", "x", "--raw-prompt", "y"],
    ["generate", "--model", "/", "--raw-prompt", "x", "--system", "y"],
    ["generate", "--model", "/", "--prompt", "x", "--temperature", "-1"],
    ["generate", "--model", "/", "--prompt", "x", "--top-p", "0"],
    ["generate", "--model", "/", "--prompt", "x", "--max-new-tokens", "0"],
    ["generate", "--model", "/", "--prompt", "x", "--seed", "-1"],
))
def test_a_wrong_command_line_is_one_message_and_exit_code_2(arguments):
    done = sluice(*arguments)
    assert done.returncode == EXIT_SETUP and done.stdout == ""
    assert done.stderr.startswith("sluice: ") and done.stderr.count("sluice: ") == 1
    assert re.search(r"\n  fix: see `sluice( \w+)? --help`\n$", done.stderr), done.stderr


def test_a_misspelt_command_is_named_with_the_right_one():
    done = sluice("trian", "job.yaml")
    assert done.returncode == EXIT_SETUP
    assert done.stderr == "sluice: no command 'trian'\n  fix: did you mean 'train'? see `sluice --help`\n"


def test_train_passes_its_options_on(job):
    assert sluice("train", job).stdout == "train seed=42 dry_run=0 trace= quiet=0\n"
    assert (sluice("train", job, "seed=7", "--dry-run", "--trace", "t.json", "--quiet", "max_steps=3").stdout
            == "train seed=7 dry_run=1 trace=t.json quiet=1\n")


def test_plan_passes_its_options_on(job):
    assert sluice("plan", job, "--json", "seed=7").stdout == "plan seed=7 json=1\n"


def test_profile_passes_its_options_on(job):
    assert sluice("profile", job).stdout == "profile seed=42 steps=5 json=0 report= trace=\n"
    assert (sluice("profile", job, "seed=7", "--steps", 3, "--json", "--report", "a.html", "--trace", "t.json").stdout ==
            "profile seed=7 steps=3 json=1 report=a.html trace=t.json\n")


@pytest.mark.parametrize("option", (["--machine", "m.yaml"], ["--plan-only"]))
def test_options_of_a_study_are_not_of_a_job(job, option):
    done = sluice("profile", job, *option)
    assert done.returncode == EXIT_SETUP and done.stdout == ""
    assert done.stderr.startswith(f"sluice: {job} is a job: --machine and --plan-only are of a study\n  fix: `sluice plan`")


def test_generate_passes_its_options_on(tmp_path):
    assert (sluice("generate", "--model", tmp_path, "--prompt", "hi").stdout ==
            f"generate model={tmp_path} adapter= prompt=hi raw=0 system= max_new_tokens=256 temperature=0 top_p=1 top_k=0 "
            "seed=42\n")
    assert (sluice("generate", "--model", tmp_path, "--adapter", tmp_path, "--prompt", "hi", "--system", "be brief",
                   "--max-new-tokens", 5, "--temperature", 0.7, "--top-p", 0.9, "--top-k", 40, "--seed", 3).stdout ==
            f"generate model={tmp_path} adapter={tmp_path} prompt=hi raw=0 system=be brief max_new_tokens=5 temperature=0.7 "
            "top_p=0.9 top_k=40 seed=3\n")
    assert " prompt=[on raw=1 " in sluice("generate", "--model", tmp_path, "--raw-prompt", "[on").stdout


@pytest.mark.parametrize("how, code, message", (
    ("setup_error", EXIT_SETUP, "sluice: the set-up is wrong\n  fix: put it right\n"),
    ("run_error", EXIT_RUN, "sluice: step 3 failed\n  fix: the last checkpoint is intact\n"),
    ("other_error", EXIT_RUN, "sluice: something else\n"),
))
def test_what_the_library_throws_becomes_an_exit_code(job, how, code, message):
    done = sluice("train", job, f"output_dir={how}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", message)
    done = sluice("generate", "--model", "/", "--prompt", how)
    assert (done.returncode, done.stderr) == (code, message)


def test_a_wrong_job_is_exit_code_2_with_its_place(job):
    job.write_text(job.read_text() + "micro_batch_siz: 2\n")
    for command in ("train", "plan", "preprocess"):
        done = sluice(command, job)
        assert done.returncode == EXIT_SETUP and done.stdout == ""
        assert done.stderr == (f"sluice: {job}:4:1: unknown key 'micro_batch_siz'\n"
                               "  fix: did you mean 'micro_batch_size'?\n")


def test_a_setting_without_a_value_is_refused(job):
    done = sluice("train", job, "max_steps")
    assert done.returncode == EXIT_SETUP
    assert done.stderr.startswith("sluice: command line: 'max_steps' is not of the form key=value")


def test_notes_go_to_stderr(job):
    job.write_text(job.read_text() + "gradient_checkpointing: true\n")
    done = sluice("plan", job)
    assert done.returncode == 0 and done.stdout == "plan seed=42 json=0\n"
    assert done.stderr.startswith(f"note: {job}:4:1: gradient_checkpointing changes nothing here: ")


def test_a_missing_library_says_how_to_get_it(tmp_path, job):
    alone = shutil.copy(os.environ["SLUICE_FIXTURE_BINARY"], tmp_path / "sluice")
    done = sluice("train", job, binary=alone)
    assert done.returncode == EXIT_SETUP
    assert re.fullmatch(r"sluice: cannot load /\S+/libsluice_runtime\.so: .*\n  fix: build again: `make build`\n", done.stderr)
    assert sluice("--help", binary=alone).returncode == 0


def test_a_library_of_another_version_is_refused(tmp_path, job):
    alone = shutil.copy(os.environ["SLUICE_FIXTURE_BINARY"], tmp_path / "sluice")
    shutil.copy(os.environ["SLUICE_OLD_RUNTIME"], tmp_path / "libsluice_runtime.so")
    done = sluice("train", job, binary=alone)
    assert done.returncode == EXIT_SETUP
    assert "libsluice_runtime.so (0.0.1) is not of the same build as sluice" in done.stderr


def test_probe_passes_on_what_it_is_told():
    assert sluice("probe").stdout == "probe out=machine.yaml nvme=., force=0 quick=0 device=0\n"
    done = sluice("probe", "--nvme", "/a", "/b", "--out", "m.yaml", "--force", "--quick", "--device", "cuda")
    assert done.stdout == "probe out=m.yaml nvme=/a,/b, force=1 quick=1 device=2\n"


def test_merge_passes_on_what_it_is_told(tmp_path):
    done = sluice("merge", "--adapter", tmp_path, "--out", "merged")
    assert done.stdout == f"merge adapter={tmp_path} out=merged model= dtype=base\n"
    done = sluice("merge", "--adapter", tmp_path, "--out", "merged", "--model", tmp_path, "--dtype", "f16")
    assert done.stdout == f"merge adapter={tmp_path} out=merged model={tmp_path} dtype=f16\n"
    refused = sluice("merge", "--adapter", tmp_path, "--out", "merged", "--dtype", "int8")
    assert refused.returncode == EXIT_SETUP and "--dtype" in refused.stderr
