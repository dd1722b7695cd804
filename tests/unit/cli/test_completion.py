"""What shells complete, and the manual page: read by the shells and by groff themselves."""

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

BINARY = os.environ["SLUICE_FIXTURE_BINARY"]
COMMANDS = {"train", "plan", "probe", "preprocess", "generate", "merge", "profile", "doctor", "fsck", "completion", "man"}
SHELLS = ("bash", "zsh", "fish")


def sluice(*arguments):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, check=True).stdout


def help_options(command):
    """The names in front of each line of the help: "  -h,--help ..", "  --nvme,--nvme-path DIR ..": the long ones."""
    fronts = re.findall(r"(?m)^ +((?:-\w, *)?--[a-z-]+(?:, *--[a-z-]+)*)", sluice(*command, "--help"))
    return {name for front in fronts for name in re.findall(r"--[a-z-]+", front)}


def in_bash(folder, *words):
    """What bash offers for the last word, by its own machinery: the function that `complete -p` names fills COMPREPLY."""
    script = """
        source <("$0" completion bash)
        [[ $(complete -p sluice) == "complete -F _sluice sluice" ]] || exit 9
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _sluice
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "--norc", "--noprofile", "-uc", script, BINARY, "sluice", *words], cwd=folder,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return {line for line in done.stdout.splitlines() if line}


def test_bash_offers_every_command_and_the_options_of_each(tmp_path):
    assert in_bash(tmp_path, "") == COMMANDS
    assert in_bash(tmp_path, "p") == {"plan", "probe", "preprocess", "profile"}
    assert in_bash(tmp_path, "--") == {"--help", "--version"}
    for command in COMMANDS:
        assert in_bash(tmp_path, command, "--") == help_options([command]) != set(), command


def test_bash_offers_files_folders_settings_and_choices(tmp_path):
    (tmp_path / "job one.yaml").touch()
    (tmp_path / "out").mkdir()
    assert in_bash(tmp_path, "train", "") == {"job one.yaml", "out"}
    assert in_bash(tmp_path, "train", "job.yaml", "offload.max_") == {"offload.max_gpu=", "offload.max_cpu=", "offload.max_disk="}
    assert in_bash(tmp_path, "merge", "--adapter", "") == {"out"}
    assert in_bash(tmp_path, "probe", "--device", "") == {"auto", "cpu", "cuda"}
    assert in_bash(tmp_path, "completion", "") == set(SHELLS)
    assert in_bash(tmp_path, "generate", "--prompt", "") == set()


def test_a_tab_in_bash_completes(tmp_path):
    """Keys pressed in a shell on a terminal, as a user does."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "sluice").symlink_to(BINARY)
    environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PS1": "$ ", "TERM": "dumb", "HOME": str(tmp_path)}
    with shell_on_a_terminal(["bash", "--norc", "--noprofile", "-i"], environment, tmp_path) as terminal:
        os.write(terminal, b"source <(sluice completion bash); echo rea''dy\n")
        assert "ready" in read_until(terminal, "ready")
        os.write(terminal, b"sluice pro\t\t")
        assert "preprocess" not in read_until(terminal, "probe")
        os.write(terminal, b"be --dev\t")
        read_until(terminal, "--device ")


@contextlib.contextmanager
def shell_on_a_terminal(command, environment, folder):
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(shutil.which(command[0]), command, environment)
    try:
        yield terminal
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)


def read_until(terminal, wanted, seconds=20):
    text, end = "", time.monotonic() + seconds
    while wanted not in text:
        assert time.monotonic() < end, f"no {wanted!r} in {text!r}"
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 65536).decode()
    return text


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_reads_its_script(shell, tmp_path):
    script = tmp_path / "_sluice"
    script.write_text(sluice("completion", shell))
    assert all(re.search(rf"\b{command}\b", script.read_text()) for command in COMMANDS)
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    checked = subprocess.run([shell, "-n", script], capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stderr == ""


def test_fish_offers_what_the_command_has(tmp_path):
    if not shutil.which("fish"):
        pytest.skip("no fish here")
    (tmp_path / "sluice.fish").write_text(sluice("completion", "fish"))

    def offered(line):
        script = f"source {tmp_path}/sluice.fish; complete -C '{line}'"
        done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, cwd=tmp_path,
                              env={**os.environ, "HOME": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        return {each.split("\t")[0] for each in done.stdout.splitlines()}

    assert offered("sluice ") == COMMANDS
    assert help_options(["train"]) <= offered("sluice train --")
    assert offered("sluice probe --device ") == {"auto", "cpu", "cuda"}
    assert "offload.max_cpu=" in offered("sluice train job.yaml off")


def test_zsh_offers_what_the_command_has(tmp_path):
    if not shutil.which("zsh"):
        pytest.skip("no zsh here")
    (tmp_path / "_sluice").write_text(sluice("completion", "zsh"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sluice").symlink_to(BINARY)
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PS1": "$ ", "TERM": "vt100", "HOME": str(tmp_path),
                   "ZDOTDIR": str(tmp_path)}
    with shell_on_a_terminal(["zsh", "-f", "-i"], environment, tmp_path) as terminal:
        os.write(terminal, b"fpath=($PWD $fpath); autoload -Uz compinit && compinit -u; unsetopt ZLE_RPROMPT; echo rea''dy\n")
        read_until(terminal, "ready")
        os.write(terminal, b"sluice probe --dev\t")
        read_until(terminal, "--device")
        os.write(terminal, b" cu\t")
        read_until(terminal, "cuda")


def test_the_manual_page_is_read_without_a_warning(tmp_path):
    page = tmp_path / "sluice.1"
    page.write_text(sluice("man"))
    if not shutil.which("groff"):
        pytest.skip("no groff here")
    done = subprocess.run(["groff", "-ww", "-man", "-Tutf8", "-rLL=78n", page], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    text = re.sub(r"\033\[[0-9;]*m|.\x08", "", done.stdout).replace("\u2010", "-")
    for command in COMMANDS:
        assert f"sluice {command}" in text and command.upper() in text
        for option in help_options([command]):
            assert option in text, (command, option)
    for key in ("offload.max_cpu", "micro_batch_size (or per_device_train_batch_size)"):
        assert key in text
    if shutil.which("man"):
        shown = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True,
                               env={**os.environ, "LC_ALL": "C"})
        assert shown.returncode == 0 and shown.stderr == "" and "sluice train" in shown.stdout
