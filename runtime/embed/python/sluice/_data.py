"""What Python gives as data, as the int32 arrays that the runtime takes."""

import numpy as np

MASKED = -100
_INT32 = np.iinfo(np.int32)


def _integers(values, what, where):
    """A contiguous one-dimensional int32 array; torch tensors on the CPU and NumPy arrays of int32 are not copied."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{where}: {what} are {type(values).__name__}: {error}\n  fix: give integers, [N]")
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size > 0):
        raise TypeError(f"{where}: {what} are {type(values).__name__} of shape {array.shape} and type {array.dtype}"
                        "\n  fix: give integers, [N]")
    if array.size and (array.min() < _INT32.min or array.max() > _INT32.max):
        raise ValueError(f"{where}: {what} do not fit 32 bits\n  fix: use the tokenizer that belongs to the model")
    return np.ascontiguousarray(array, dtype=np.int32)


def document(item, where):
    """(token ids [N], labels [N] or None, None) of one row of a dataset.

    `item`: token ids [N]; or (token ids, labels); or a mapping with `input_ids` and perhaps `labels` and
    `attention_mask`, whose padding is left out.
    """
    mask = None
    if hasattr(item, "keys"):
        if "input_ids" not in item:
            raise TypeError(f"{where}: a mapping with {', '.join(map(str, item.keys()))}"
                            "\n  fix: give input_ids, and labels where not every token is learnt")
        ids, labels, mask = item["input_ids"], item.get("labels"), item.get("attention_mask")
    elif isinstance(item, (str, bytes)) or not hasattr(item, "__len__"):
        raise TypeError(f"{where}: {type(item).__name__}\n  fix: give (token ids, labels), or token ids, or input_ids and labels")
    elif isinstance(item, (tuple, list)) and len(item) == 2 and hasattr(item[0], "__len__"):
        ids, labels = item
    else:
        ids, labels = item, None
    ids = _integers(ids, "token ids", where)
    labels = None if labels is None else _integers(labels, "labels", where)
    if mask is not None:
        kept = _integers(mask, "attention_mask", where) != 0
        if len(kept) != len(ids) or (labels is not None and len(labels) != len(ids)):
            raise ValueError(f"{where}: {len(ids)} token ids, attention_mask of {len(kept)}"
                             f"{'' if labels is None else f', {len(labels)} labels'}\n  fix: give as many of each")
        ids = np.ascontiguousarray(ids[kept])
        labels = None if labels is None else np.ascontiguousarray(labels[kept])
    if labels is not None and len(labels) != len(ids):
        raise ValueError(f"{where}: {len(ids)} token ids and {len(labels)} labels"
                         "\n  fix: give a label for each token (-100: nothing is learnt there), or none at all")
    return ids, labels, None


def joined(documents):
    """A micro-batch of documents laid end to end."""
    ids = np.concatenate([each[0] for each in documents])
    labels = np.concatenate([each[0] if each[1] is None else each[1] for each in documents])
    lengths = [len(each[0]) for each in documents]
    starts = np.cumsum([0, *lengths[:-1]]).astype(np.int32)
    return ids, labels, starts


class Rows:
    """A dataset with a length: rows by index, which the runtime shuffles, batches and repeats."""

    def __init__(self, dataset):
        self._dataset = dataset
        self.count = len(dataset)

    def __call__(self, row):
        return document(self._dataset[row], f"row {row} of the dataset")


class Composed:
    """A dataset with an index, whose micro-batches somebody else has composed: `rows_of(step, micro_batch)` gives row numbers,
    none after the step's last."""

    def __init__(self, dataset, rows_of):
        self._dataset = dataset
        self._rows_of = rows_of

    def __call__(self, step, micro_batch, rows, micro_batches):
        documents = [document(self._dataset[row], f"row {row} of the dataset") for row in self._rows_of(step, micro_batch)]
        return joined(documents) if documents else None


class Stream:
    """An iterable without a length, read in its order, and from its beginning again where it has one."""

    def __init__(self, dataset):
        self._dataset = dataset
        self._iterator = iter(dataset)
        self._again = self._iterator is not dataset  # not a generator
        self._next = 0  # row

    def _row(self):
        item = next(self._iterator, self)
        if item is self and self._again:
            self._iterator = iter(self._dataset)
            item = next(self._iterator, self)
        self._next += item is not self
        return item

    def __call__(self, step, micro_batch, rows, micro_batches):
        first = (step * micro_batches + micro_batch) * rows
        while self._next < first and self._row() is not self:
            pass  # of steps that the checkpoint has already seen
        documents = []
        while len(documents) < rows:
            at, item = self._next, self._row()
            if item is self:
                break
            documents.append(document(item, f"item {at} of the iterable"))
        return joined(documents) if documents else None


class Listed:
    """Rows in their order, once: for evaluation."""

    def __init__(self, dataset):
        self._iterator = enumerate(dataset)

    def __call__(self, step, micro_batch, rows, micro_batches):
        items = [document(item, f"row {at}") for _, (at, item) in zip(range(rows), self._iterator)]
        return joined(items) if items else None
