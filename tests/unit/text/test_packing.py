"""Packing loses no document, splits none, overfills no bin, and wastes little."""

import random
import time

import pytest

from sluice_text.packing import pack


@pytest.mark.parametrize("seed", range(40))
def test_each_document_once_no_bin_over_capacity(seed):
    source = random.Random(seed)
    capacity = source.choice([2, 16, 257, 2048])
    lengths = [source.randint(1, max(1, capacity // source.choice([1, 2, 9]))) for _ in range(source.randint(0, 300))]
    bins = pack(lengths, capacity)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in members) <= capacity for members in bins)
    assert all(members == sorted(members) for members in bins) and bins == sorted(bins)
    at_least = -(-sum(lengths) // capacity)
    # Best-fit decreasing leaves no two bins that would go into one, so all but one are more than half full.
    assert len(bins) <= 2 * at_least
    assert sum(sum(lengths[i] for i in members) <= capacity // 2 for members in bins) <= 1


def test_bins_are_nearly_full_at_the_lengths_of_real_chats():
    source = random.Random(7)
    lengths = [min(2048, max(8, int(source.lognormvariate(5.5, 0.8)))) for _ in range(5000)]
    assert sum(lengths) / (len(pack(lengths, 2048)) * 2048) > 0.99


def test_exact_fits_are_found():
    assert pack([6, 4, 7, 3, 5, 5], 10) == [[0, 1], [2, 3], [4, 5]]


def test_time_grows_with_the_number_of_documents_not_its_square():
    source = random.Random(8)
    lengths = [source.randint(1, 4096) for _ in range(200_000)]
    begin = time.process_time()
    pack(lengths[:20_000], 4096)
    tenth = time.process_time() - begin
    begin = time.process_time()
    pack(lengths, 4096)
    assert time.process_time() - begin < 40 * tenth + 0.5


@pytest.mark.parametrize("lengths", [[11], [0]])
def test_what_fits_no_bin_is_refused(lengths):
    with pytest.raises(ValueError):
        pack(lengths, 10)
