"""What `make install` and the .deb hold is enough for a program outside the tree."""

import os
import subprocess
from pathlib import Path

import pytest
from golden import sluice_run

from .conftest import environment

PROJECT = Path(__file__).parent / "example_project"
BUILD = Path(os.environ.get("SLUICE_BUILD", "."))


def run(*command, **options):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, env=environment(), **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    path = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", BUILD, "--prefix", path)
    return path


def test_the_installed_binary_finds_its_libraries_and_the_text_side(prefix, job, tmp_path):
    keys = {"output_dir": str(tmp_path / "out"), **job, "dataset_prepared_path": str(tmp_path / "prepared")}
    run(prefix / "bin" / "sluice", "train", sluice_run.write_job(tmp_path / "job.yaml", keys), "max_steps=1")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_installed_binary_writes_reports_of_what_is_installed_with_it(prefix, job, tmp_path):
    (page,) = prefix.glob("lib*/**/report/page.css")
    page.write_text(page.read_text() + "/* the installed one */")
    keys = {"output_dir": str(tmp_path / "out"), **job, "dataset_prepared_path": str(tmp_path / "prepared")}
    run(prefix / "bin" / "sluice", "profile", sluice_run.write_job(tmp_path / "job.yaml", keys), "--steps", 1,
        "--report", tmp_path / "report.html")
    written = (tmp_path / "report.html").read_text()
    assert "/* the installed one */" in written and "plotly.js v" in written
    assert (page.parent / "plotly.min.js").stat().st_size > 1 << 20


def test_headers_are_the_public_ones_and_need_nothing_else(prefix, tmp_path):
    headers = sorted(path.name for path in (prefix / "include" / "sluice").iterdir())
    assert headers == ["errors.h", "job.h", "tensors.h", "trainer.h", "version.h"]
    for name in set(headers) - {"tensors.h"}:
        (tmp_path / "a.cpp").write_text(f"#include <sluice/{name}>\n")
        run("c++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", prefix / "include", tmp_path / "a.cpp")


def test_the_example_builds_against_the_install_and_trains(prefix, job, tmp_path):
    run("cmake", "-G", "Ninja", "-S", PROJECT, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path / "build")
    said = run(tmp_path / "build" / "example", job["base_model"], tmp_path / "out")
    assert said.count("step ") == 8 and "as planned" in said, said
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_another_minor_version_is_not_taken(prefix, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "CMakeLists.txt").write_text((PROJECT / "CMakeLists.txt").read_text().replace("Sluice 0.1", "Sluice 0.2"))
    (project / "main.cpp").write_text("int main() {}\n")
    done = subprocess.run(["cmake", "-G", "Ninja", "-S", project, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}"],
                          capture_output=True, text=True, env=environment())
    assert done.returncode != 0 and 'requested version "0.2"' in done.stderr


def test_the_deb_holds_the_same(tmp_path):
    run("cpack", "--config", BUILD / "CPackConfig.cmake", "-G", "DEB", "-B", tmp_path, cwd=tmp_path)
    (package,) = tmp_path.glob("sluice_*.deb")
    said = run("dpkg-deb", "-c", package)
    for name in ("/usr/bin/sluice", "/libsluice_runtime.so", "/usr/include/sluice/trainer.h", "/SluiceConfig.cmake",
                 "/text/preprocess.py", "/report/page.html", "/report/plotly.min.js"):
        assert name in said, f"{name} is not in\n{said}"
    assert "Version: 0.1" in run("dpkg-deb", "-I", package)
