"""The codecs that make bytes as they are, by number: what the inside of codec 4 may use, too."""

from __future__ import annotations

from delta.codecs import dictionary, difference, sparse, store
from delta.codecs.interface import Decode

STORE, DICTIONARY, DIFFERENCE, SPARSE = range(4)
PLAIN: dict[int, Decode] = {
    STORE: store.decode,
    DICTIONARY: dictionary.decode,
    DIFFERENCE: difference.decode,
    SPARSE: sparse.decode,
}
