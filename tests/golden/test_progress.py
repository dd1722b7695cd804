"""What a terminal shows while a job trains, of several widths and read as an eye would; and what a pipe gets."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest
import yaml
from golden import sluice_run, tiny_models

STEPS = 12
SGR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def job(workshop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("progress")
    model = workshop.model(tiny_models.BY_NAME["llama_tied"])
    job = {"base_model": str(model), "datasets": [{"path": str(workshop.rows_file), "type": "completion"}], "device": "cpu",
           "dataset_prepared_path": str(workshop.cache), "sequence_len": 48, "micro_batch_size": 2, "max_steps": STEPS,
           "learning_rate": 1e-3, "val_set_size": 8, "eval_steps": 5, "save_steps": 4, "output_dir": str(folder / "out")}
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    # Measured and prepared before: what follows looks at training alone.
    subprocess.run([sluice_run.binary(), "plan", file], check=True, capture_output=True)
    return file


def arguments(job, tmp_path, *more):
    return [sluice_run.binary(), "train", str(job), f"output_dir={tmp_path}/out", *more]


class Screen:
    """A terminal of one width, as far as our output asks: text, line ends, carriage returns, wiping to the end of the line."""

    def __init__(self, columns):
        self.columns, self.lines, self.at, self.frames = columns, [""], 0, []

    def feed(self, text):
        for part in re.split(r"(\r\n|\r|\n|\x1b\[[0-9;]*[A-Za-z])", text):
            if part == "\r":
                self.at = 0
            elif part == "\r\n":
                self.lines, self.at = [*self.lines, ""], 0
            elif part == "\x1b[K":
                self.lines[-1] = self.lines[-1][:self.at]
                if self.lines[-1]:
                    self.frames.append(self.lines[-1])
            elif SGR.fullmatch(part) or part == "":
                pass
            else:
                assert not part.startswith("\x1b") and part != "\n", repr(part)
                before = self.lines[-1].ljust(self.at)
                self.lines[-1] = before[:self.at] + part + before[self.at + len(part):]
                self.at += len(part)


def on_a_terminal(command, columns, environment=None, read_late=False):
    """(exit code, what was written, the screen at the end)."""
    process, terminal = pty.fork()
    if process == 0:
        os.execve(command[0], command, {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1", **(environment or {})})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    text, end = b"", time.monotonic() + 240
    if read_late:
        assert ended_within(process, 240), "it waits for a reader"
    try:
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                more = os.read(terminal, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            text += more
    finally:
        if not read_late:
            _, status = os.waitpid(process, 0)
        else:
            status = 0
        os.close(terminal)
    screen = Screen(columns)
    screen.feed(text.decode())
    return os.waitstatus_to_exitcode(status), text.decode(), screen


def ended_within(process, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            assert status == 0
            return True
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    return False


@pytest.mark.parametrize("columns", (40, 80, 200))
def test_one_line_lives_and_fits_and_the_others_stand_above_it(job, tmp_path, columns):
    code, _, screen = on_a_terminal(arguments(job, tmp_path), columns)
    assert code == 0
    live = [frame for frame in screen.frames if re.search(rf"\d+/{STEPS}\b", frame) and not frame.startswith("step ")]
    assert live and all(len(frame) < columns for frame in screen.frames), max(screen.frames, key=len)
    shown = [frame for frame in live if "loss" in frame]
    assert shown and all(re.search(r"loss \d+\.\d{4}", frame) and "ETA" in frame for frame in shown)
    assert any("[" in frame and "#" in frame for frame in live) == (columns >= 80)
    assert all(("RAM " in frame) == (columns == 200) for frame in shown)
    # What stays is whole lines, with nothing of the line that lived in them.
    lines = [line for line in screen.lines if line]
    assert [line for line in lines if line.startswith("validation loss")] == [
        line for line in lines if re.fullmatch(r"validation loss \d+\.\d{4} (before training|at this step|after training)", line)]
    assert len([line for line in lines if line.startswith("validation loss")]) == 4
    assert len([line for line in lines if line.startswith(f"step {STEPS}/{STEPS}  loss ")]) == 1
    assert lines[-1].startswith("result: ") and not any("/12  loss" in line and line[0] != "s" for line in lines)


def test_no_color_and_a_dumb_terminal(job, tmp_path):
    code, text, screen = on_a_terminal(arguments(job, tmp_path / "a"), 80, {"NO_COLOR": "1"})
    assert code == 0 and not SGR.search(text) and screen.frames
    code, text, _ = on_a_terminal(arguments(job, tmp_path / "b"), 80)
    assert code == 0 and SGR.search(text)
    code, text, _ = on_a_terminal(arguments(job, tmp_path / "c"), 80, {"TERM": "dumb"})
    assert code == 0 and "\x1b" not in text and text.count("step ") >= STEPS


def test_a_terminal_that_nobody_reads_does_not_hold_up_training(job, tmp_path):
    command = arguments(job, tmp_path, "max_steps=60", "eval_steps=0", "save_steps=0")
    begin = time.monotonic()
    on_a_terminal(command, 200, read_late=True)
    assert time.monotonic() - begin < 200
    assert len((tmp_path / "out" / "trainer_log.jsonl").read_text().splitlines()) == 60


def test_a_pipe_gets_plain_lines(job, tmp_path):
    done = subprocess.run(arguments(job, tmp_path), capture_output=True, text=True)
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr
    assert len(re.findall(rf"(?m)^step +\d+/{STEPS}  loss ", done.stdout)) == STEPS


def test_quiet_says_nothing_of_steps(job, tmp_path):
    done = subprocess.run(arguments(job, tmp_path, "--quiet"), capture_output=True, text=True)
    assert done.returncode == 0 and "step " not in done.stdout.replace("at this step", "")
    code, text, screen = on_a_terminal(arguments(job, tmp_path / "b", "--quiet"), 80)
    assert code == 0 and "\x1b" not in text and not screen.frames


def test_json_is_the_logs_lines_and_nothing_else(job, tmp_path):
    done = subprocess.run(arguments(job, tmp_path, "--json"), capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout == (tmp_path / "out" / "trainer_log.jsonl").read_text()
    assert [json.loads(line)["step"] for line in done.stdout.splitlines()] == list(range(1, STEPS + 1))
    assert "validation loss" in done.stderr and "result: " in done.stderr
    both = subprocess.run(arguments(job, tmp_path / "x", "--json", "--quiet"), capture_output=True, text=True)
    assert both.returncode == 2 and both.stderr.startswith("sluice: ")


def test_a_dry_run_as_json_is_its_plan(job, tmp_path):
    done = subprocess.run(arguments(job, tmp_path, "--json", "--dry-run"), capture_output=True, text=True)
    assert done.returncode == 0 and isinstance(json.loads(done.stdout), dict) and not (tmp_path / "out").exists()


def test_verifying_a_checkpoint_and_writing_the_result_are_shown(job, tmp_path):
    assert on_a_terminal(arguments(job, tmp_path, "max_steps=8"), 100)[0] == 0
    code, text, screen = on_a_terminal(arguments(job, tmp_path, "auto_resume_from_checkpoints=true"), 100)
    assert code == 0
    for work in ("verifying checkpoint-8", "loading checkpoint-8", "writing "):
        assert any(frame.startswith(work) for frame in screen.frames), (work, screen.frames)
    assert not any(line.startswith(("verifying", "loading", "writing")) for line in screen.lines)


def test_loading_a_model_to_generate_with_is_shown(job, tmp_path):
    model = yaml.safe_load(job.read_text())["base_model"]
    command = [sluice_run.binary(), "generate", "--model", model, "--raw-prompt", "a", "--max-new-tokens", "1"]
    code, _, screen = on_a_terminal(command, 100)
    assert code == 0 and any(frame.startswith("loading the model") for frame in screen.frames), screen.frames
    assert not any("loading" in line for line in screen.lines)
