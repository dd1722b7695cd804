"""A study over cells that do as told, without a model: what each becomes, what is kept, and the exit code."""

import csv
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
EXIT_SETUP, EXIT_RUN = 2, 3
SET_UP_WRONG = "the set-up is wrong; fix: put it right"


class Study:
    """`tell` what its cells do, `run` it."""

    def __init__(self, directory):
        self.directory, self.output = directory, directory / "out"
        (directory / "model").mkdir()
        (directory / "data.jsonl").write_text("{}\n")
        (directory / "job.yaml").write_text(f"base_model: {directory}/model\nlearning_rate: 1e-5\n"
                                            f"datasets: [{{path: {directory}/data.jsonl, type: alpaca}}]\n")
        self.page = directory / "page"
        self.page.mkdir()
        (self.page / "page.html").write_text("/*style*/ /*script*/ /*data*/ /*plotly*/")
        for part in ("page.css", "page.js", "plotly.min.js"):
            (self.page / part).write_text(part)

    def tell(self, *cells):
        (self.directory / "study.yaml").write_text(f"base: job.yaml\noutput_dir: {self.output}\n"
                                                   f"grid: {{output_dir: [{', '.join(cells)}]}}\n")

    def run(self, *options):
        command = [os.environ["SLUICE_FIXTURE_BINARY"], "profile", self.directory / "study.yaml", *options]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                              env={**os.environ, "SLUICE_REPORT_DIR": str(self.page)})
        print(done.stdout, done.stderr)
        return done

    def rows(self):
        return {row["output_dir"]: row for row in csv.DictReader((self.output / "study.csv").open())}


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def test_what_becomes_of_each_cell_is_said_with_its_reason(study):
    expected = {
        "cell": ("measured", ""),
        "plan_setup_error": ("skipped", SET_UP_WRONG),
        "plan_other_error": ("failed", "something else"),
        "plan_killed": ("failed", "ended by signal 9 (out of memory?)"),
        "plan_no_json": ("failed", "half a line"),
        "profile_setup_error": ("skipped", SET_UP_WRONG),
        "profile_no_json": ("failed", "half a line"),
        "profile_run_error": ("failed", "step 3 failed; fix: the last checkpoint is intact"),
        "profile_terminated": ("failed", "ended by signal 15: it broke off; fix: try again"),
    }
    study.tell(*expected)
    done = study.run()
    assert done.returncode == EXIT_RUN and done.stderr == ""
    rows = study.rows()
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == expected
    assert [rows[name]["tokens_per_second"] for name in ("cell", "plan_killed")] == ["80", ""]
    assert rows["profile_run_error"]["planned_tokens_per_second"] == "100"
    assert "5 cells fit and are not measured, 4 skipped, 0 measured before" in done.stdout
    assert "[3/9] output_dir=plan_other_error: failed: something else" in done.stdout
    assert f"[6/9] output_dir=profile_setup_error: skipped: {SET_UP_WRONG}" in done.stdout
    assert "[1/9] output_dir=cell: measured: 80 tokens/s, 80% of bound (compute)" in done.stdout
    assert "page.css" in (study.output / "report.html").read_text()


def test_what_was_measured_is_kept_and_the_rest_is_tried_anew(study):
    study.tell("cell", "profile_setup_error")
    assert study.run().returncode == 0
    kept = study.rows()["cell"]
    again = study.run()
    assert again.returncode == 0 and "[1/2] output_dir=cell: measured before" in again.stdout
    assert "1 cells fit and are not measured, 0 skipped, 1 measured before" in again.stdout
    assert study.rows()["cell"] == kept
    # The base job is another one: its results are others.
    with open(study.directory / "job.yaml", "a") as job:
        job.write("seed: 7\n")
    assert "0 measured before" in study.run().stdout


def test_a_reason_that_all_cells_have_is_one_error(study):
    study.tell("plan_no_fix")
    done = study.run()
    assert done.returncode == EXIT_SETUP and done.stderr == "sluice: no cell can run: nothing can be done\n"
    study.tell("plan_setup_error")
    done = study.run()
    assert done.returncode == EXIT_SETUP
    assert done.stderr == "sluice: no cell can run: the set-up is wrong\n  fix: put it right\n"
    study.tell("plan_setup_error", "plan_no_fix")
    assert study.run().returncode == 0
    assert [row["status"] for row in study.rows().values()] == ["skipped", "skipped"]


@pytest.mark.parametrize("command", ("plan", "profile"))
def test_a_cell_that_ends_with_the_study_is_open_and_one_that_outlasts_it_is_kept(study, command):
    """The signal comes while the second cell is asked."""
    kept = {"plan": "planned", "profile": "measured"}[command]
    for how, states in (("stopping", [kept, {"plan": "open", "profile": "planned"}[command]]),
                        ("outlasting", [kept, kept])):
        study.tell("cell", f"{command}_{how}", "profile_setup_error")
        done = study.run()
        assert done.returncode == 128 + signal.SIGTERM
        assert "stopped; the same command goes on with the cells that are not measured yet" in done.stdout
        found = [row["status"] for row in study.rows().values()]
        assert found == [*states, {"plan": "open", "profile": "planned"}[command]]


def test_a_study_for_another_machine_is_planned_and_not_run(study):
    study.tell("cell", "profile_run_error")
    machine = REPOSITORY / "configs" / "machine" / "rtx4090_desktop.yaml"
    done = study.run("--machine", machine)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in study.rows().values()] == ["planned", "planned"]
    found = json.loads((study.output / "study.json").read_text())
    assert "RTX 4090" in found["machine"]
    assert found["words"].endswith(f" Planned for {found['machine']}: nothing was run there.")
    # On this machine nothing is known yet.
    assert "0 measured before" in study.run().stdout and study.rows()["cell"]["status"] == "measured"
