"""`type: alpaca`: instruction, input, output. Prompts and joins as Axolotl's, so that its users' data keeps its meaning."""

from sluice_text.documents import make_document, text_field

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n")
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n")


def prompt_of(instruction, context):
    if context:
        return WITH_INPUT.format(instruction=instruction, input=context)
    return WITHOUT_INPUT.format(instruction=instruction)


class AlpacaMaker:
    def __init__(self, tokenizer, request, dataset):
        del dataset  # its rows are always read alike
        self._tokenizer = tokenizer
        self._train_on_inputs = request.train_on_inputs
        self._eos_id = tokenizer.require_eos_id()

    def documents(self, rows):
        prompts = [prompt_of(text_field(row, "instruction"), text_field(row, "input", required=False)) for row in rows]
        answers = [text_field(row, "output") for row in rows]
        # Tokenized apart and then joined: the prompt's ids are those the model is later asked with.
        ids = self._tokenizer.encode_batch(prompts + answers)
        for prompt_ids, answer_ids in zip(ids[:len(rows)], ids[len(rows):], strict=True):
            prompt_ids = self._tokenizer.prefix_ids + prompt_ids
            if not answer_ids or answer_ids[-1] != self._eos_id:
                answer_ids = answer_ids + [self._eos_id]
            supervised = [self._train_on_inputs] * len(prompt_ids) + [True] * len(answer_ids)
            yield [make_document(prompt_ids + answer_ids, supervised)]
