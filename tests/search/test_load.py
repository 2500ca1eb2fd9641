"""An index under load: it is searched, loaded and filtered while it grows, shrinks, is compacted and saved."""

import random
import threading

import numpy as np
import pytest

from csr_hf.search.index import InvertedIndex
from tests.search.test_index import ALL, make_coder, make_rows, rank

READERS, LOADERS = 2, 1


class Load:
    """A folder with an index, what writers did to it, and what readers found wrong.

    No id is given twice, so that a reader can tell whether a hit is a document that was there at any time.
    """

    def __init__(self, folder):
        self.folder, self.coder, self.rng = folder, make_coder(), random.Random(0)
        self.rows = {number: row for number, row in enumerate(make_rows(300))}
        self.alive = set(self.rows)
        self.index = InvertedIndex.build(np.stack(list(self.rows.values())), self.coder, list(self.rows))
        self.index.save(folder)
        self.saved = [frozenset(self.alive)]
        self.done, self.faults, self.searches = threading.Event(), [], 0

    def change(self, turn):
        """Add, delete, compact or save, whichever comes."""
        first = max(self.rows) + 1
        added = {first + number: row for number, row in enumerate(make_rows(self.rng.randint(1, 40), turn + 1))}
        self.rows |= added
        self.index.add(np.stack(list(added.values())), self.coder, list(added))
        self.alive |= set(added)
        gone = self.rng.sample(sorted(self.alive), min(len(added), len(self.alive) - 1))
        assert self.index.delete(gone) == len(gone)
        self.alive -= set(gone)
        if turn % 5 == 0:
            self.index.compact()
        if turn % 3 == 0:
            # What is saved may be loaded before this thread goes on.
            self.saved.append(frozenset(self.alive))
            self.index.save(self.folder)

    def look(self, seed):
        """Search until the writer is done."""
        rng = np.random.default_rng(seed)
        while not self.done.is_set():
            self.check(self.index, make_rows(3, int(rng.integers(2**30))), int(rng.integers(1, 400)))
            self.searches += 1

    def load(self):
        """Load the folder until the writer is done: it holds what was saved at some time, whole."""
        while not self.done.is_set():
            index = InvertedIndex.load(self.folder, mmap=bool(self.searches % 2))
            hits = index.search(make_rows(1), len(index) + 5, ALL)
            if frozenset(hits.ids[0, : len(index)].tolist()) not in self.saved:
                self.faults.append(("what was loaded is nothing that was saved", len(index)))
            self.check(index, make_rows(2), 10)

    def check(self, index, queries, top_k):
        hits = index.search(queries, top_k)
        for ids, scores in zip(hits.ids, hits.scores, strict=True):
            found = ids[np.isfinite(scores)].tolist()
            if len(set(found)) != len(found) or not set(found) <= set(range(max(self.rows) + 1)):
                self.faults.append(("hits", found))
            if (np.diff(scores[np.isfinite(scores)]) > 0).any() or (np.abs(scores[np.isfinite(scores)]) > 1.01).any():
                self.faults.append(("scores", scores))

    def run(self, turns):
        threads = [threading.Thread(target=self.guard(self.look), args=(seed,)) for seed in range(READERS)]
        threads += [threading.Thread(target=self.guard(self.load)) for _ in range(LOADERS)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(turns):
                self.change(turn)
        finally:
            self.done.set()
            for thread in threads:
                thread.join()

    def guard(self, target):
        """An error in a thread is a fault."""

        def run(*arguments):
            try:
                target(*arguments)
            except (ValueError, OSError, LookupError, RuntimeError, TypeError) as error:
                self.faults.append(error)

        return run


def put_under_load(folder, turns):
    load = Load(folder)
    load.run(turns)
    assert not load.faults and load.searches > 0
    load.index.save(folder)
    index = InvertedIndex.load(folder, verify=True)
    alive = sorted(load.alive)
    queries = make_rows(5, 99)
    expected = rank(load.coder, np.stack([load.rows[number] for number in alive]), queries)
    hits = index.search(queries, len(alive), ALL)
    assert len(index) == len(alive) and (np.sort(hits.ids, axis=1) == alive).all()
    at = np.searchsorted(alive, hits.ids)
    np.testing.assert_allclose(hits.scores, np.take_along_axis(expected, at, axis=1), rtol=5e-3, atol=5e-3)


def test_an_index_is_searched_while_it_changes(tmp_path):
    put_under_load(tmp_path / "index", 12)


@pytest.mark.slow
def test_an_index_is_searched_for_long_while_it_changes(tmp_path):
    put_under_load(tmp_path / "index", 400)
