"""`sluice doctor` on this machine and on lesser ones, beside what Python sees of the same. The runtime is a stand-in's."""

import contextlib
import fcntl
import json
import os
import pty
import re
import resource
import shutil
import subprocess

import pytest
from faults.small_machine import (CAP_DAC_OVERRIDE, CAP_IPC_LOCK, limit, little_locked_memory, no_huge_pages,
                                  refuse_io_uring, without)

EXIT_SETUP = 2
MACHINE_CHECKS = ["processor", "memory", "gpu", "io_uring", "memlock", "huge_pages", "open_files", "text", "runtime"]


def doctor(*arguments, environment=None, binary=None, **options):
    command = [binary or os.environ["SLUICE_FIXTURE_BINARY"], "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})}, **options)


def findings(*arguments, code=0, **options):
    """By check; of paths by (check, path)."""
    done = doctor("--json", *arguments, **options)
    assert done.returncode == code, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["can_run"] == (code == 0)
    return {(one["check"], one["path"]) if "path" in one else one["check"]: one for one in report["findings"]}


@pytest.fixture
def job(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "swap").mkdir()
    (tmp_path / "data.jsonl").write_text("{}\n")
    path = tmp_path / "job.yaml"
    path.write_text(f"base_model: {tmp_path}/model\ndatasets: [{{path: {tmp_path}/data.jsonl, type: alpaca}}]\n"
                    f"learning_rate: 1e-5\noutput_dir: {tmp_path}/out\noffload: {{nvme_path: {tmp_path}/swap}}\n")
    return path


def test_a_machine_is_looked_at_whole_and_a_path_left_as_it_was(tmp_path):
    found = findings("--nvme-path", tmp_path)
    here = str(tmp_path)
    assert [key for key in found if isinstance(key, str) and key != "driver"] == MACHINE_CHECKS
    assert [key for key in found if not isinstance(key, str)] == [("path", here), ("o_direct", here), ("drive", here)]
    assert list(tmp_path.iterdir()) == []
    for one in found.values():
        assert one["verdict"] in ("ok", "limited") and one["found"]
        assert one["verdict"] == "ok" or (one["costs"] and one["fix"]), one


def test_numbers_are_those_that_the_system_tells(tmp_path):
    found = findings("--nvme-path", tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert found["open_files"]["found"].startswith(f"{soft} (hard limit {hard}), ")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["memory"]["found"].startswith(f"{total / 2**30:.2f} GiB, ")
    assert f", {len(os.sched_getaffinity(0))} core" in found["processor"]["found"]
    space = os.statvfs(tmp_path)
    size = re.search(r"free of ([0-9.]+) GiB", found["path", str(tmp_path)]["found"])[1]
    assert float(size) == pytest.approx(space.f_blocks * space.f_frsize / 2**30, abs=0.01)
    assert found["text"]["found"].startswith(f"Python {'.'.join(map(str, os.sys.version_info[:3]))} ")


def test_cores_are_those_that_it_may_run_on(tmp_path):
    one = min(os.sched_getaffinity(0))
    found = findings("--nvme-path", tmp_path, preexec_fn=lambda: os.sched_setaffinity(0, {one}))["processor"]["found"]
    assert ", 1 core, " in found


def takes_direct(folder):
    file = folder / "direct"
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    finally:
        file.unlink(missing_ok=True)
    return True


def test_o_direct_is_what_the_file_system_takes(tmp_path):
    one = findings("--nvme-path", tmp_path)["o_direct", str(tmp_path)]
    assert one["found"] == f"4.00 MiB written and read back {'past' if takes_direct(tmp_path) else 'through'} the page cache"


def test_each_path_is_looked_at_and_memory_is_no_drive(tmp_path):
    found = findings("--nvme-path", tmp_path, "--nvme", "/dev/shm")
    assert found["path", str(tmp_path)]["verdict"] == "ok"
    memory = found["o_direct", "/dev/shm"]
    assert memory["verdict"] == "limited" and "it is memory (tmpfs)" in memory["costs"]
    assert memory["fix"].startswith("offload.nvme_path=")


def test_without_a_job_and_a_path_it_is_the_current_folder_and_a_path_is_looked_at_once(tmp_path, job):
    def paths(*arguments):
        return [key[1] for key in findings(*arguments, cwd=tmp_path) if key[0] == "path"]

    assert paths() == ["."]
    assert paths("--nvme", tmp_path, "--nvme-path", tmp_path) == [str(tmp_path)]
    swap, out = str(tmp_path / "swap"), str(tmp_path / "out")
    assert paths(job) == [swap, out]
    assert paths(job, "--nvme", tmp_path, "--nvme", swap) == [str(tmp_path), swap, out]
    assert paths(job, f"offload.nvme_path={out}") == [out]


def test_a_folder_that_may_not_be_written_to_is_mended_by_a_command_that_a_shell_takes(tmp_path):
    folder = tmp_path / "it's read-only"
    folder.mkdir(mode=0o555)
    one = findings("--nvme-path", folder, code=EXIT_SETUP, preexec_fn=lambda: without(CAP_DAC_OVERRIDE))["path", str(folder)]
    assert one["verdict"] == "missing" and one["costs"] == "nothing can be swapped there" and str(folder) in one["found"]
    command, quoted = one["fix"].rsplit(" ", 2)[0], one["fix"].partition('"$USER" ')[2]
    assert command.startswith('sudo install -d -o "$USER"')
    assert subprocess.run(f"printf %s {quoted}", shell=True, capture_output=True, text=True).stdout == str(folder)


@pytest.mark.parametrize("path, said", (("/proc/no/such", "cannot write to /proc"), ("/etc/passwd", "is not a folder")))
def test_a_path_that_takes_nothing_prevents_a_job(path, said):
    one = findings("--nvme-path", path, code=EXIT_SETUP)["path", path]
    assert one["verdict"] == "missing" and said in one["found"] and one["fix"]


def test_a_path_that_is_not_there_is_one_that_a_job_makes(tmp_path):
    absent = tmp_path / "not" / "yet"
    assert findings("--nvme-path", absent)["path", str(absent)]["found"].endswith("; not there yet: a job makes it")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_another_run_uses_prevents_a_job(tmp_path):
    (tmp_path / "sluice-swap").mkdir(mode=0o700)
    with open(tmp_path / "sluice-swap" / "owner", "w") as owner:
        owner.write("4711")
        owner.flush()
        fcntl.flock(owner, fcntl.LOCK_EX)
        one = findings("--nvme-path", tmp_path, code=EXIT_SETUP)["path", str(tmp_path)]
    assert "is in use by process 4711" in one["found"] and one["fix"].startswith("wait for it")


def test_a_ring_that_is_refused_costs_threads_and_a_job_that_asks_for_it_cannot_run(job, tmp_path):
    one = findings("--nvme-path", tmp_path, preexec_fn=refuse_io_uring)["io_uring"]
    assert one["verdict"] == "limited" and "io_uring is refused: Operation not permitted" in one["found"] and one["fix"]
    asked = findings(job, "offload.io_backend=uring", code=EXIT_SETUP, preexec_fn=refuse_io_uring)["io_uring"]
    assert asked["verdict"] == "missing"
    unused = findings(job, "offload.io_backend=thread", preexec_fn=refuse_io_uring)["io_uring"]
    assert unused["verdict"] == "ok"


def test_little_locked_memory_is_limited_and_the_fix_raises_it(tmp_path):
    found = findings("--nvme-path", tmp_path, preexec_fn=little_locked_memory)
    assert "memlock" in found["memlock"]["fix"] or found["memlock"]["fix"].startswith("ulimit -l "), found
    assert found["memlock"]["found"].startswith("64.00 KiB") and found["memlock"]["verdict"] == "limited"


def test_the_limit_on_locked_memory_does_not_hold_whoever_may_lock_all(tmp_path):
    with open("/proc/self/status", encoding="utf8") as status:
        capabilities = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    with open("/proc/self/uid_map", encoding="utf8") as users:
        inside = users.read().split() != ["0", "0", "4294967295"]
    if inside or not capabilities >> CAP_IPC_LOCK & 1:
        pytest.skip("the limit holds this user, or whom the kernel takes for it outside its namespace")
    found = findings("--nvme-path", tmp_path, preexec_fn=lambda: limit(resource.RLIMIT_MEMLOCK, 64 << 10))
    if found["io_uring"]["found"] != "a ring of 32 requests was set up":
        pytest.skip(f"no ring to lock memory for: {found['io_uring']['found']}")
    assert found["memlock"] == {
        "check": "memlock", "verdict": "ok",
        "found": "64.00 KiB, which does not hold this user; 64.00 MiB were registered with the ring"}


def test_locked_memory_is_no_matter_to_a_job_whose_io_runs_on_threads(job):
    one = findings(job, "offload.io_backend=thread", preexec_fn=little_locked_memory)["memlock"]
    assert one["verdict"] == "ok" and "fix" not in one


def test_no_huge_pages_are_limited(tmp_path):
    one = findings("--nvme-path", tmp_path, preexec_fn=no_huge_pages)["huge_pages"]
    assert one["verdict"] == "limited" and "switched off for this process" in one["found"]


def test_too_few_open_files_prevent_a_job(tmp_path):
    one = findings("--nvme-path", tmp_path, code=EXIT_SETUP, preexec_fn=lambda: limit(resource.RLIMIT_NOFILE, 20))
    assert one["open_files"]["verdict"] == "missing" and one["open_files"]["found"].startswith("20 (hard limit 20), ")


def test_a_models_files_are_among_the_open_ones(job, tmp_path):
    def needed(code=0, **options):
        one = findings(job, code=code, **options)["open_files"]
        return int(re.search(r", (\d+) needed", one["found"])[1]), one

    few, _ = needed()
    for i in range(30):
        (tmp_path / "model" / f"model-{i}.safetensors").touch()
        (tmp_path / "model" / f"notes-{i}.txt").touch()
    many, one = needed(EXIT_SETUP, preexec_fn=lambda: limit(resource.RLIMIT_NOFILE, 60))
    assert many == few + 2 * 30
    assert one["verdict"] == "missing" and one["costs"] == "the model's files cannot all be opened"
    assert "nofile" in one["fix"] and "65536" in one["fix"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert needed(preexec_fn=lambda: limit(resource.RLIMIT_NOFILE, 60, hard))[1]["verdict"] == "ok", "a job raises the soft one"


@pytest.mark.parametrize("library, says", ((None, "libsluice_runtime.so"), ("SLUICE_OLD_RUNTIME", "is not of the same build")))
def test_no_library_that_computes_prevents_a_job(tmp_path, library, says):
    alone = shutil.copy(os.environ["SLUICE_FIXTURE_BINARY"], tmp_path / "sluice")
    if library:
        shutil.copy(os.environ[library], tmp_path / "libsluice_runtime.so")
    one = findings("--nvme-path", tmp_path, code=EXIT_SETUP, binary=alone)["runtime"]
    assert one["verdict"] == "missing" and says in one["found"]
    assert one["costs"] == "nothing can be computed" and one["fix"] == "make build"


def test_no_python_prevents_a_job(tmp_path):
    one = findings("--nvme-path", tmp_path, code=EXIT_SETUP, environment={"SLUICE_PYTHON": "/bin/false"})["text"]
    assert one["verdict"] == "missing" and one["fix"] == "make setup"


def test_a_jobs_paths_are_looked_at(job, tmp_path):
    found = findings(job)
    for folder in ("swap", "out"):
        assert found["path", str(tmp_path / folder)]["verdict"] == "ok"
    assert not (tmp_path / "out").exists() and list((tmp_path / "swap").iterdir()) == []


def test_a_job_that_wants_more_memory_than_is_free_is_told_so(job):
    one = findings(job, "offload.max_cpu=100TiB")["memory"]
    assert one["verdict"] == "limited" and "offload.max_cpu is 100.00 TiB" in one["costs"]
    assert re.fullmatch(r"offload\.max_cpu=\d+GiB", one["fix"])
    little = findings(job, "offload.max_cpu=1MiB")["memory"]
    assert little["verdict"] == "ok" and "fix" not in little


def test_a_job_for_a_gpu_that_is_not_there_cannot_run(job):
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("there is one")
    one = findings(job, "device=cuda", code=EXIT_SETUP)["gpu"]
    assert one["verdict"] == "missing" and one["found"] == "none found, and the job's device is cuda"
    assert one["fix"] == "device=cpu"
    assert findings(job)["gpu"] == {"check": "gpu", "verdict": "ok", "found": "none found: the processor computes"}


def test_a_gpu_is_what_the_driver_tells_and_really_opened(job):
    driver = {"LD_LIBRARY_PATH": os.environ["SLUICE_FAKE_NVML"]}
    found = findings(job, environment=driver)
    assert found["gpu"]["found"] == "Stand-in GPU 9000, 24.00 GiB, 4.00 GiB taken, compute capability 8.9, PCIe 4 x16"
    assert found["driver"]["found"] == "550.54.14, CUDA 12.4 at most"
    assert found["gpu"]["verdict"] == "limited" and "it is a stand-in" in found["gpu"]["costs"]
    assert findings(job, "device=cuda", code=EXIT_SETUP, environment=driver)["gpu"]["verdict"] == "missing"


def test_a_gpu_that_the_job_does_not_ask_for_is_not_opened(job):
    found = findings(job, "device=cpu", environment={"LD_LIBRARY_PATH": os.environ["SLUICE_FAKE_NVML"]})
    assert found["gpu"]["verdict"] == "ok" and found["gpu"]["found"].startswith("Stand-in GPU 9000, ")


def test_a_gpu_that_is_older_than_our_kernels_is_not_for_a_job(job):
    driver = {"LD_LIBRARY_PATH": os.environ["SLUICE_FAKE_NVML"], "FAKE_NVML": "old"}
    one = findings(job, "device=cuda", code=EXIT_SETUP, environment=driver)["gpu"]
    assert one["verdict"] == "missing" and ", compute capability 7.5, " in one["found"] and one["fix"] == "device=cpu"
    assert one["costs"] == "kernels are compiled for compute capability 8.0 and later"
    assert findings(job, "device=cpu", environment=driver)["gpu"]["verdict"] == "limited"


def test_what_a_driver_does_not_tell_is_not_made_up(job):
    driver = {"LD_LIBRARY_PATH": os.environ["SLUICE_FAKE_NVML"], "FAKE_NVML": "terse"}
    found = findings(job, environment=driver)
    assert found["gpu"]["found"] == "Stand-in GPU 9000, 24.00 GiB, 4.00 GiB taken"
    assert found["driver"]["found"] == "550.54.14"


def test_each_gpu_is_told(tmp_path):
    driver = {"LD_LIBRARY_PATH": os.environ["SLUICE_FAKE_NVML"], "FAKE_NVML": "pair"}
    one = "Stand-in GPU 9000, 24.00 GiB, 4.00 GiB taken, compute capability 8.9, PCIe 4 x16"
    gpu = findings("--nvme-path", tmp_path, environment=driver)["gpu"]
    assert gpu["found"] == f"{one}; {one}" and gpu["verdict"] == "limited" and "it is a stand-in" in gpu["costs"]


def on_a_terminal(*arguments, **environment):
    ours, theirs = pty.openpty()
    command = [os.environ["SLUICE_FIXTURE_BINARY"], "doctor", *arguments]
    environment = {**{key: value for key, value in os.environ.items() if key != "NO_COLOR"}, "TERM": "xterm", **environment}
    text = b""
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment, preexec_fn=no_huge_pages) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
            while part := os.read(ours, 4096):
                text += part
    os.close(ours)
    assert process.returncode == EXIT_SETUP
    return text.decode().replace("\r\n", "\n")


def test_on_a_terminal_verdicts_have_colours_unless_they_are_not_wanted():
    text = on_a_terminal("--nvme-path", "/proc/no")
    for colour, verdict, check in ((32, "ok", "processor"), (33, "limited", "huge_pages"), (31, "missing", "path")):
        assert f"\n\033[{colour}m{verdict:8}\033[0m {check} " in "\n" + text, text
    for plain in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        text = on_a_terminal("--nvme-path", "/proc/no", **plain)
        assert "\033" not in text and "\nmissing  path " in text, text


def test_for_people_it_is_a_line_each_and_what_follows_from_them(tmp_path):
    done = doctor("--nvme-path", tmp_path)
    assert done.returncode == 0 and done.stderr == "" and "\033" not in done.stdout
    for check in MACHINE_CHECKS:
        assert len(re.findall(rf"(?m)^(?:ok|limited|missing) +{check} ", done.stdout)) == 1, check
    assert f"\n\n{tmp_path}\nok       path " in done.stdout
    assert re.search(r"\n\na job can run here.*\. What it takes of this: `sluice plan JOB\.yaml`\n$", done.stdout)
    broken = doctor("--nvme-path", "/proc/no")
    assert broken.returncode == EXIT_SETUP and "\na job cannot run here; missing: 1" in broken.stdout


def test_a_wrong_job_is_one_message(job):
    job.write_text(job.read_text() + "micro_batch_siz: 2\n")
    done = doctor(job)
    assert done.returncode == EXIT_SETUP and done.stdout == ""
    assert done.stderr.startswith(f"sluice: {job}:6:1: unknown key 'micro_batch_siz'")
