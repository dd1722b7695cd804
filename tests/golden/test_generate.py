"""`sluice generate`: the prompt that a model sees is the one of transformers, and an answer ends where it must."""

import json
import shutil

import pytest
import safetensors.torch
import transformers
from equivalence import jobs
from golden import sluice_run

EXIT_SETUP = 2
TEMPLATE = ("{% for message in messages %}the {{ message['role'] }} reads {{ message['content'] }}{{ eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}the assistant reads {% endif %}")


@pytest.fixture(scope="module")
def plain(workshop):
    return workshop.model(jobs.TINY)


@pytest.fixture(scope="module")
def instruct(plain, tmp_path_factory):
    """The same model with a chat template."""
    folder = tmp_path_factory.mktemp("instruct") / "model"
    shutil.copytree(plain, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def generate(model, *arguments, code=0, **options):
    done = sluice_run.sluice("generate", "--model", model, *arguments, **options)
    assert done.returncode == code, done.stderr
    return done


def prompt_ids(directory, model, *arguments):
    file = directory / "logits.safetensors"
    generate(model, *arguments, "--max-new-tokens", 1, "--logits", file)
    return safetensors.torch.load_file(file)["token_ids"].tolist()


def test_a_prompt_is_what_the_template_makes_of_it(instruct, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(instruct)
    system, user = ({"role": "system", "content": "ahead"}, {"role": "user", "content": "the next row"})
    for arguments, messages in ((["--system", "ahead"], [system, user]), ([], [user])):
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert prompt_ids(tmp_path, instruct, "--prompt", "the next row", *arguments) == theirs
    assert prompt_ids(tmp_path, instruct, "--raw-prompt", "the next row") == tokenizer("the next row")["input_ids"]


def test_without_a_template_a_prompt_is_its_text_and_a_system_message_has_no_place(plain, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain)
    assert prompt_ids(tmp_path, plain, "--prompt", "the next row") == tokenizer("the next row")["input_ids"]
    done = generate(plain, "--prompt", "the next row", "--system", "ahead", code=EXIT_SETUP)
    assert done.stdout == ""
    assert done.stderr.startswith(f"sluice: {plain} has no chat template, so there is no place for a system message\n  fix: ")


@pytest.mark.parametrize("prompt, tokens, says, fix", (
    ("", 1, "the prompt has no tokens", "give --prompt a text"),
    ("the disk", 64, " positions, the model has 64", "lower --max-new-tokens or shorten the prompt"),
    ("the disk", 2**63 - 1, " positions, the model has 64", "lower --max-new-tokens or shorten the prompt")))
def test_a_prompt_that_the_model_cannot_take_is_refused(plain, prompt, tokens, says, fix):
    done = generate(plain, "--raw-prompt", prompt, "--max-new-tokens", tokens, code=EXIT_SETUP)
    assert done.stdout == "" and says in done.stderr and done.stderr.endswith(f"\n  fix: {fix}\n"), done.stderr


def test_an_answer_ends_with_any_of_the_models_ends(plain, tmp_path):
    arguments = ("--raw-prompt", "the disk", "--max-new-tokens", 5)
    assert len(generate(plain, *arguments).stdout) > 1
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(vocabulary))}))
    assert generate(folder, *arguments).stdout == "\n"


def test_among_the_likeliest_one_sampling_is_greedy(plain):
    arguments = ("--raw-prompt", "every block", "--max-new-tokens", 8)
    greedy = generate(plain, *arguments).stdout
    assert generate(plain, *arguments, "--temperature", 5, "--top-k", 1, "--seed", 3).stdout == greedy
    sampled = {generate(plain, *arguments, "--temperature", 5, "--seed", seed).stdout for seed in (3, 3, 4)}
    assert len(sampled) == 2 and greedy not in sampled
