"""The quickstart's parts: the dataset made of a FAQ, the tokenizer made of a GGUF file, the script behind the target."""

import json
import os
import re
import shutil
import subprocess
import sys

import make_faq_dataset
import pytest
import yaml
from conftest import QUICKSTART

PAGE = """<html><head><title>Chapter 1. Title of the page</title></head><body>
<div class="navheader">Prev Next</div>
<div class="chapter"><div class="titlepage"><h1 class="title"><a id="x"></a>Chapter 1. Definitions</h1></div>
<div class="toc"><dl><dt>1.1. What is Debian?</dt></dl></div>
<div class="section"><div class="titlepage"><h2 class="title"><a id="y"></a>1.1. What is
  Debian?</h2></div><p>
A distribution of <em>Linux</em> &amp; more,
full of packages. See <a href="z">Section 1.2, &#8220;Names&#8221;</a>. It is:
</p><div class="itemizedlist"><ul><li><p>free to use, </p></li><li><p>stable.</p></li></ul></div>
<pre class="screen">
$ lsb_release -a
Debian
</pre></div>
<div class="section"><div class="titlepage"><h2 class="title">1.2. Names</h2></div>
<p>Named after Debra and Ian, who founded it.</p>
<div class="section"><div class="titlepage"><h3 class="title">1.2.1. Short?</h3></div><p>Yes.</p></div></div></div>
<div class="navfooter">Next</div></body></html>"""


def test_a_page_becomes_questions_with_their_answers(tmp_path):
    (tmp_path / "basic.en.html").write_text(PAGE)
    (tmp_path / "basic.html").write_text(PAGE)  # the package links each page twice
    (tmp_path / "index.en.html").write_text(PAGE.replace("What is", "Not this:"))
    assert make_faq_dataset.make_pairs(tmp_path) == [
        ("What is Debian?", "A distribution of Linux & more, full of packages. It is:\n- free to use,\n- stable.\n"
                            "$ lsb_release -a\nDebian"),
        ('What does the Debian FAQ say about "Names"?', "Named after Debra and Ian, who founded it.")]


def test_answers_are_whole_sentences_up_to_the_limit():
    sentence = "This is a sentence of some length about packages."
    answer = make_faq_dataset.answer_of([" ".join([sentence] * 5), "Also:", "- " + " ".join([sentence] * 20)])
    assert len(answer) <= make_faq_dataset.ANSWER_CHARACTERS_MAX + 10
    assert answer.endswith("packages.") and answer.count(sentence) >= 6
    assert make_faq_dataset.answer_of([sentence, "For example:", "x" * 1000]) == sentence


def test_the_real_faq_gives_a_dataset(tmp_path):
    file = make_faq_dataset.cache_folder() / "quickstart" / "debian-faq.jsonl"
    subprocess.run([sys.executable, QUICKSTART / "make_faq_dataset.py", file], check=True)
    rows = [json.loads(line)["messages"] for line in open(file, encoding="utf-8")]
    assert len(rows) > 100
    for question, answer in rows:
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert "?" in question["content"] and not re.match(r"[0-9.]+ ", question["content"])
        assert 40 <= len(answer["content"]) <= 450
    questions = [question["content"] for question, _ in rows]
    assert len(set(questions)) == len(questions)
    asked = re.search(r'^question="(.*)"$', (QUICKSTART / "quickstart.sh").read_text(), re.M)[1]
    assert asked in questions


def test_the_model_is_what_transformers_loads_without_complaint(smollm2):
    config = json.loads((smollm2 / "config.json").read_text())
    tokenizer = json.loads((smollm2 / "tokenizer_config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16" and config["rms_norm_eps"] == 1e-5
    assert (tokenizer["bos_token"], tokenizer["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert (smollm2 / "model.safetensors").stat().st_size == pytest.approx(269e6, rel=0.01)
    again = subprocess.run([sys.executable, QUICKSTART / "fetch_model.py", smollm2], capture_output=True, text=True, check=True)
    assert again.stdout == f"model: {smollm2} (already there)\n"


def test_the_example_says_what_it_does():
    text = (QUICKSTART / "quickstart.yaml").read_text()
    job = yaml.safe_load(text)
    assert job["offload"]["params"] == job["offload"]["gradients"] == job["offload"]["optimizer"] == "disk"
    cap = re.search(r"at most (\d+) MiB", text)[1]
    assert job["offload"]["max_cpu"] == f"{cap}MiB"
    assert job["bf16"] and 0 < job["val_set_size"] < 1


FAKE_SLUICE = """#!/bin/sh
echo "$@" >> calls
case $1 in
  generate) echo "an answer of $3" ;;
  train) [ -e build/quickstart/out ] && { echo "output_dir is not empty"; exit 2; }
         mkdir build/quickstart/out; echo trained ;;
esac
"""


@pytest.fixture
def tour(tmp_path):
    """A copy of the script's folder with a stand-in for the binary and everything fetched already."""
    shutil.copytree(QUICKSTART, tmp_path / "configs" / "quickstart")
    (tmp_path / "sluice").write_text(FAKE_SLUICE)
    (tmp_path / "sluice").chmod(0o755)
    for name in ("cache/models/SmolLM2-135M-Instruct/model.safetensors", "cache/quickstart/debian-faq.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("there")

    environment = {**os.environ, "SLUICE_CACHE": str(tmp_path / "cache"), "SLUICE_PYTHON": sys.executable}

    def run():
        return subprocess.run([tmp_path / "configs/quickstart/quickstart.sh", "./sluice"], cwd="/", env=environment,
                              capture_output=True, text=True)
    return run


def test_the_tour_shows_before_and_after_and_ends_with_the_result(tour, tmp_path):
    done = tour()
    assert done.returncode == 0, done.stderr
    calls = [line.split()[:3] for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == [["generate", "--model", "build/quickstart/model"], ["train", "configs/quickstart/quickstart.yaml"],
                     ["generate", "--model", "build/quickstart/out"]]
    assert (tmp_path / "build/quickstart/faq.jsonl").read_text() == "there"
    assert "build/quickstart/out" in done.stdout.splitlines()[-3] and "from transformers" in done.stdout.splitlines()[-1]
    assert "an answer of build/quickstart/model" in done.stdout


def test_the_tour_can_be_taken_twice(tour, tmp_path):
    assert tour().returncode == tour().returncode == 0
    assert (tmp_path / "calls").read_text().count("train ") == 2


def test_the_tour_without_a_binary_says_what_to_do(tour, tmp_path):
    (tmp_path / "sluice").unlink()
    done = tour()
    assert done.returncode == 2 and "fix: make build" in done.stderr


def test_the_tour_stops_where_training_fails(tour, tmp_path):
    (tmp_path / "sluice").write_text(FAKE_SLUICE.replace("echo trained", "exit 3"))
    done = tour()
    assert done.returncode == 3 and "The result" not in done.stdout
