"""Tiny models with random weights for each family and rope variant, in odd sizes, and rows of text for them.

Everything is written by transformers and tokenizers themselves, so that what Sluice reads is what a user has.
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END, PAD = "<|endoftext|>", "<|pad|>"
WORDS = """the disk reads ahead while the device computes and every block leaves before it is needed again a row of
tokens waits in memory for its turn then gradients travel back from the head to the embedding and the weights move a
little so that the next answer is better than the last one which is all that training ever does""".split()
ROW_TOKENS_MAX = 48


@dataclass(frozen=True)
class TinyModel:
    """Sizes that divide nothing evenly: 3 key/value heads, head_dim != hidden / heads, a vocabulary of 137."""

    name: str
    family: str
    fields: dict = field(default_factory=dict)
    stored: str = "float32"
    shard_bytes_max: str = "5GB"
    pad_token_inside_text: bool = False

    def config(self):
        sizes = dict(
            vocab_size=137,
            hidden_size=48,
            intermediate_size=76,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=12,
            max_position_embeddings=64,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
        )
        config = transformers.AutoConfig.for_model(self.family, **{**sizes, **self.fields})
        config.dtype = getattr(torch, self.stored)
        return config


def rope(kind, **fields):
    return {"rope_type": kind, "rope_theta": 1000.0, **fields}


FAMILIES = (
    TinyModel("llama_tied", "llama", {"rope_parameters": rope("default")}),
    TinyModel(
        "llama_linear_biased",
        "llama",
        {"rope_parameters": rope("linear", factor=2.5), "attention_bias": True, "mlp_bias": True,
         "tie_word_embeddings": False},
        stored="bfloat16",
    ),
    TinyModel(
        "llama_llama3",
        "llama",
        {"rope_parameters": rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                 original_max_position_embeddings=16)},
        shard_bytes_max="60KB",
    ),
    TinyModel(
        "llama_yarn_untied",
        "llama",
        {"rope_parameters": rope("yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=8.0),
         "tie_word_embeddings": False, "head_dim": 16},
        stored="float16",
    ),
    TinyModel(
        "mistral_window",
        "mistral",
        {"sliding_window": 7, "hidden_size": 44, "head_dim": 8, "tie_word_embeddings": False,
         "rope_parameters": rope("default")},
    ),
    TinyModel("qwen2_tied", "qwen2", {"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1},
              pad_token_inside_text=True),
    TinyModel(
        "qwen2_window_untied",
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "tie_word_embeddings": False},
    ),
    TinyModel("qwen3_tied", "qwen3", {"head_dim": 18}),
    TinyModel("qwen3_untied", "qwen3", {"hidden_size": 40, "num_key_value_heads": 2, "tie_word_embeddings": False}),
)
BY_NAME = {model.name: model for model in FAMILIES}


def make_tokenizer():
    """Byte-level BPE over printable ASCII with a few merges: every token is text that one can read."""
    byte_of = dict(zip(map(chr, range(32, 127)), (c if c != " " else "Ġ" for c in map(chr, range(32, 127)))))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=131, special_tokens=[END, PAD], initial_alphabet=sorted(byte_of.values()),
                                  show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def randomise(model, seed):
    """Norm weights around one, biases that are not zero: a bug that ignores either shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(1 + 0.3 * noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5 * (1.0 if "embed" not in name else 3.0))


def write_model(tiny, directory, seed=1):
    directory = Path(directory)
    config = tiny.config()
    tokenizer = make_tokenizer()
    config.bos_token_id = None
    config.eos_token_id = tokenizer.eos_token_id
    # Where padding is a token of the text, its row of the input embedding gets no gradient.
    config.pad_token_id = tokenizer.encode(" the")[0] if tiny.pad_token_inside_text else tokenizer.pad_token_id
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, seed)
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    # Not of config.dtype: from_config has set that to float32.
    model.to(getattr(torch, tiny.stored)).save_pretrained(directory, max_shard_size=tiny.shard_bytes_max)
    tokenizer.save_pretrained(directory)
    return directory


def write_rows(path, count, seed=7, words_min=4, words_max=16):
    """Completion rows of unequal lengths."""
    generator = random.Random(seed)
    with open(path, "w") as file:
        for _ in range(count):
            words = [generator.choice(WORDS) for _ in range(generator.randint(words_min, words_max))]
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    return path


def expected_rows(path, model_dir, sequence_len=ROW_TOKENS_MAX):
    """What a completion dataset means: the text's tokens and the end-of-text token, in pieces of sequence_len."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    rows = []
    for line in Path(path).read_text().splitlines():
        ids = tokenizer(json.loads(line)["text"])["input_ids"] + [tokenizer.eos_token_id]
        rows += [ids[begin:begin + sequence_len] for begin in range(0, len(ids), sequence_len)]
    return [row for row in rows if len(row) > 1]
