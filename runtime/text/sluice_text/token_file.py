"""Token files as TOKEN_FILE.md lays them down: written from a spool of documents, read back for the cache and the eye."""

import os
import struct
from dataclasses import dataclass

from sluice_text.documents import MASKED
from sluice_text.errors import TextError

MAGIC, END_MAGIC = b"SLUICETK", b"KTECIULS"
VERSION = 1
FIX_AGAIN = "remove its folder: the next preparation writes it again"
HEADER = struct.Struct("<8sIIQQQQQQ64s")
ID_BYTES = 4
WRITE_BUFFER_BYTES = 4 << 20


class Spool:
    """Documents on disk while their order is not yet known: 16 bytes each in memory, however long the texts."""

    def __init__(self, directory):
        self._paths = (directory / "ids.spool", directory / "labels.spool")
        self._files = [open(path, "wb", buffering=WRITE_BUFFER_BYTES) for path in self._paths]
        self.lengths = []
        self.supervised = []
        self.id_max = -1

    def add(self, document):
        import array
        for file, values in zip(self._files, (document.ids, document.labels), strict=True):
            array.array("i", values).tofile(file)
        self.lengths.append(len(document.ids))
        self.supervised.append(len(document.labels) - document.labels.count(MASKED))
        self.id_max = max(self.id_max, max(document.ids))

    def finish(self):
        """From now on the documents can be read: ids(i) and labels(i)."""
        import numpy
        for file in self._files:
            file.close()
        self._starts = numpy.concatenate([[0], numpy.cumsum(self.lengths, dtype=numpy.int64)])
        self._ids, self._labels = (numpy.memmap(path, dtype="<i4", mode="r") for path in self._paths)

    def ids(self, index):
        return self._ids[self._starts[index]:self._starts[index + 1]]

    def labels(self, index):
        return self._labels[self._starts[index]:self._starts[index + 1]]

    def close(self):
        for file in self._files:
            file.close()
        self._ids = self._labels = None
        for path in self._paths:
            path.unlink(missing_ok=True)


def write(path, rows, spool, vocabulary_size, content_hash):
    """`rows`: for each row the indices of its documents. Returns what the file holds, as counted. Synced to disk."""
    import numpy
    order = [index for row in rows for index in row]
    lengths = [spool.lengths[index] for index in order]
    document_starts = numpy.concatenate([[0], numpy.cumsum(lengths, dtype=numpy.uint64)]).astype("<u8")
    row_ends = numpy.cumsum([len(row) for row in rows], dtype=numpy.int64)
    row_starts = document_starts[numpy.concatenate([[0], row_ends])]
    counts = {
        "rows": len(rows),
        "documents": len(order),
        "tokens": int(document_starts[-1]),
        "supervised_tokens": sum(spool.supervised[index] for index in order),
        "longest_row": int(numpy.diff(row_starts).max()),
    }
    with open(path, "wb", buffering=WRITE_BUFFER_BYTES) as file:
        file.write(HEADER.pack(MAGIC, VERSION, 0, counts["rows"], counts["tokens"], counts["documents"], vocabulary_size,
                               counts["supervised_tokens"], counts["longest_row"], content_hash.encode()))
        row_starts.astype("<u8").tofile(file)
        document_starts.tofile(file)
        for values in (spool.ids, spool.labels):
            for index in order:
                file.write(values(index))
        file.write(END_MAGIC)
        file.flush()
        os.fsync(file.fileno())
    return counts


@dataclass(frozen=True)
class Header:
    rows: int
    tokens: int
    documents: int
    vocabulary_size: int
    supervised_tokens: int
    longest_row: int
    content_hash: str

    def file_bytes(self):
        return HEADER.size + 8 * (self.rows + self.documents + 2) + 2 * ID_BYTES * self.tokens + len(END_MAGIC)


def read_header(path):
    """Raises TextError when the file is not a whole token file. Reads 136 bytes, whatever its size."""
    with open(path, "rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size or head[:8] != MAGIC:
            raise TextError(f"{path}: is not a token file", FIX_AGAIN)
        _, version, _, rows, tokens, documents, vocabulary_size, supervised, longest, content_hash = HEADER.unpack(head)
        if version != VERSION:
            raise TextError(f"{path}: has version {version}; this program reads version {VERSION}", FIX_AGAIN)
        header = Header(rows, tokens, documents, vocabulary_size, supervised, longest, content_hash.decode("ascii", "replace"))
        file_bytes = os.fstat(file.fileno()).st_size
        file.seek(max(0, file_bytes - len(END_MAGIC)))
        if file_bytes != header.file_bytes() or file.read() != END_MAGIC:
            raise TextError(f"{path}: was not finished: {file_bytes} bytes, {header.file_bytes()} expected", FIX_AGAIN)
    return header


class TokenFile:
    """A whole file, mapped: for the debug view and the tests."""

    def __init__(self, path):
        import numpy
        self.header = read_header(path)
        data = numpy.memmap(path, dtype=numpy.uint8, mode="r")
        position = HEADER.size

        def take(count, kind, width):
            nonlocal position
            part = data[position:position + count * width].view(kind)
            position += count * width
            return part

        self.row_starts = take(self.header.rows + 1, "<u8", 8)
        self.document_starts = take(self.header.documents + 1, "<u8", 8)
        self.ids = take(self.header.tokens, "<i4", ID_BYTES)
        self.labels = take(self.header.tokens, "<i4", ID_BYTES)
