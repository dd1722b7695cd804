"""From a request to token files: read rows, make documents, split off validation, pack, write, publish."""

import contextlib
import itertools
import math
import random
import sys
import time

from sluice_text import token_file
from sluice_text.cache import Cache, Sources
from sluice_text.dataset_files import list_files, read_rows
from sluice_text.errors import TextError, note
from sluice_text.packing import pack
from sluice_text.token_file import Spool

# Enough to keep the tokenizer's threads busy, little enough for memory: it needs about 100 bytes a character.
ROWS_AT_ONCE = 1000
CHARACTERS_AT_ONCE = 2 << 20
PROGRESS_SECONDS, PROGRAM_SECONDS = 5, 0.2


def prepare(request):
    """The summary of README.md, from the cache when it has one."""
    files = [list_files(dataset) for dataset in request.datasets]
    sources, cache = Sources(request, files), Cache(request.cache_dir)
    if known := cache.remembered_hash(sources):
        if found := cache.find(known):
            return {**found, "cached": True}
    stats = sources.stats()
    content_hash = sources.content_hash()
    found = cache.find(content_hash)
    if found is None:
        with cache.locked(content_hash):
            found = cache.find(content_hash)  # another job may have made it meanwhile
            if found is None:
                with _disk_errors_named(cache.directory), cache.writing(content_hash) as folder:
                    summary = _write_token_files(request, files, folder, content_hash)
                    if sources.stats() != stats:
                        raise TextError("a dataset or tokenizer file changed while it was read", "start again")
                    cache.publish(folder, content_hash, summary)
    cache.remember(sources, stats, content_hash)
    return {**cache.find(content_hash), "cached": found is not None}


@contextlib.contextmanager
def _disk_errors_named(folder):
    try:
        yield
    except OSError as error:
        raise TextError(f"{error.filename or folder}: {error.strerror}",
                        f"token files take 16 bytes a token in {folder} while they are written, 8 when they are done; "
                        "free space there, or set dataset_prepared_path to another folder")


def _write_token_files(request, files, folder, content_hash):
    # Only a miss pays for these imports.
    from sluice_text.tokenizer import Tokenizer
    tokenizer = Tokenizer(request.base_model)
    with contextlib.closing(Spool(folder)) as spool:
        dropped, dataset_ends = _spool_documents(request, files, tokenizer, spool)
        _check_spool(request, spool, tokenizer, dropped)
        spool.finish()
        order = _merged_order(request, dataset_ends)
        train, validation = _split(request, order)
        vocabulary_size = _vocabulary_size(tokenizer)
        summary = {"train": "train.tokens", "validation": "validation.tokens" if validation else None, "hash": content_hash}
        for name, prefix, documents in (("train", "", train), ("validation", "validation_", validation)):
            counts = dict.fromkeys(("rows", "documents", "tokens", "supervised_tokens", "longest_row"), 0)
            if documents:
                rows = _rows(request, spool, documents)
                counts = token_file.write(folder / f"{name}.tokens", rows, spool, vocabulary_size, content_hash)
            summary.update({prefix + key: value for key, value in counts.items()})
        return {**summary, **dropped}


def _make(dataset, tokenizer, request):
    if dataset.type == "alpaca":
        from sluice_text.alpaca import AlpacaMaker
        return AlpacaMaker(tokenizer, request, dataset)
    if dataset.type in ("chat_template", "instruction"):
        from sluice_text.chat import ChatMaker
        return ChatMaker(tokenizer, request, dataset)
    from sluice_text.completion import CompletionMaker
    return CompletionMaker(tokenizer, request, dataset)


def _spool_documents(request, files, tokenizer, spool):
    """Returns how many documents were left out and why, and how many there were after each dataset."""
    dropped = {"dropped_too_long": 0, "dropped_unsupervised": 0}
    longest = 0
    dataset_ends = []
    progress = _Progress(request, files)
    for dataset, dataset_files in zip(request.datasets, files, strict=True):
        maker = _make(dataset, tokenizer, request)
        rows = itertools.chain.from_iterable(read_rows(file) for file in dataset_files)
        rows = itertools.islice(rows, dataset.rows_max or None)
        rows_read = 0
        for chunk in _chunks(rows):
            rows_read += len(chunk)
            for document in itertools.chain.from_iterable(maker.documents(chunk)):
                if len(document.ids) > request.sequence_len:
                    dropped["dropped_too_long"] += 1
                    longest = max(longest, len(document.ids))
                elif all(label < 0 for label in document.labels):
                    dropped["dropped_unsupervised"] += 1
                else:
                    spool.add(document)
            progress.show(len(chunk), sum(row.size for row in chunk))
        if rows_read == 0:
            raise TextError(f"{dataset.path}: holds no rows", "give it rows, or remove it from datasets")
        dataset_ends.append(len(spool.lengths))
    if dropped["dropped_too_long"]:
        note(f"{dropped['dropped_too_long']} rows are longer than sequence_len {request.sequence_len} and are left out "
             f"(the longest has {longest} tokens)")
    if dropped["dropped_unsupervised"]:
        note(f"{dropped['dropped_unsupervised']} rows hold nothing to train on and are left out")
    return dropped, dataset_ends


def _chunks(rows):
    chunk, size = [], 0
    for row in rows:
        chunk.append(row)
        size += row.size
        if len(chunk) == ROWS_AT_ONCE or size > CHARACTERS_AT_ONCE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Progress:
    """A line now and then, for datasets that take long: for people, or as README.md says for the program that asked."""

    def __init__(self, request, files):
        files = list(itertools.chain.from_iterable(files))
        # Of compressed files nobody knows how much text they hold.
        self._total = 0 if any(file.suffix == ".parquet" for file in files) else sum(file.stat().st_size for file in files)
        self._rows, self._size, self._said = 0, 0, time.monotonic()
        self._for_program = request.progress

    def show(self, rows, size):
        self._rows += rows
        self._size += size
        if time.monotonic() - self._said > (PROGRAM_SECONDS if self._for_program else PROGRESS_SECONDS):
            self._said = time.monotonic()
            if self._for_program:
                done = min(self._size, self._total) if self._total else self._rows
                print(f"progress: {done} {self._total}", file=sys.stderr, flush=True)
            else:
                note(f"rows tokenized: {self._rows}")


def _check_spool(request, spool, tokenizer, dropped):
    paths = ", ".join(str(dataset.path) for dataset in request.datasets)
    if not spool.lengths and dropped["dropped_too_long"]:
        raise TextError(f"{paths}: every row is longer than sequence_len {request.sequence_len}", "raise sequence_len")
    if not spool.lengths and dropped["dropped_unsupervised"]:
        raise TextError(f"{paths}: every label is masked: no row has an answer to train on",
                        "chat rows need an assistant turn; or set train_on_inputs: true")
    if not spool.lengths:
        raise TextError(f"{paths}: the rows hold no text to train on", "give them text")
    model_size = tokenizer.model_vocabulary_size
    if model_size is not None and spool.id_max >= model_size:
        raise TextError(f"{request.base_model}: the tokenizer gives id {spool.id_max}, the model's vocabulary has {model_size}",
                        "tokenizer.json and config.json must belong to the same model")


def _vocabulary_size(tokenizer):
    """Ids stay below this: the model's own size where the tokenizer knows names that the model has no row for."""
    return min(tokenizer.vocabulary_size, tokenizer.model_vocabulary_size or tokenizer.vocabulary_size)


def _merged_order(request, dataset_ends):
    order = list(range(dataset_ends[-1]))
    if request.shuffle_merged_datasets and len(dataset_ends) > 1:
        random.Random(f"merge {request.seed}").shuffle(order)
    return order


def _split(request, order):
    """(train, validation): a seeded choice; both keep their order."""
    size = request.val_set_size
    count = math.ceil(size * len(order)) if size < 1 else int(size)
    if count == 0:
        return order, []
    if count >= len(order):
        most = max(0, len(order) - 1)
        paths = ", ".join(str(dataset.path) for dataset in request.datasets)
        raise TextError(f"{paths}: val_set_size {size:g} leaves nothing of {len(order)} rows to train on",
                        f"make val_set_size smaller: at most {most}, or add rows")
    chosen = set(random.Random(f"split {request.seed}").sample(range(len(order)), count))
    train = [document for i, document in enumerate(order) if i not in chosen]
    return train, [order[i] for i in sorted(chosen)]


def _rows(request, spool, documents):
    if not request.sample_packing:
        return [[document] for document in documents]
    bins = pack([spool.lengths[document] for document in documents], request.sequence_len)
    return [[documents[i] for i in members] for members in bins]
