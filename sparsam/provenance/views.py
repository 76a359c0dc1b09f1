"""What an index holds, as mappings by id of which only what is asked for is in memory."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sparsam.provenance.decisions import Account
from sparsam.provenance.graph import Entity, Program

if TYPE_CHECKING:
    from sparsam.provenance.index import Index


class Entities(Mapping[str, Entity]):
    """By their ids, in the order in which they began; only what is asked for is in memory."""

    def __init__(self, index: "Index") -> None:
        self._index = index

    def __getitem__(self, name: str) -> Entity:
        return self._index.entity(self._index.key(name))

    def __iter__(self) -> Iterator[str]:
        for keys in self._index.all_keys("entity"):
            fresh = set(keys) - self._index.at_hand()
            yield from self._index.ids(keys)
            self._index.let_go(fresh)

    def __len__(self) -> int:
        return int(self._index.base.execute("SELECT count(*) FROM entity").fetchone()[0])


class Accounts(Mapping[str, Account]):
    """By the ids of entities, in the order in which they were begun."""

    def __init__(self, index: "Index") -> None:
        self._index = index

    def __getitem__(self, name: str) -> Account:
        found = self._index.account(self._index.key(name))
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        rows = self._index.base.execute("SELECT entity FROM account GROUP BY entity ORDER BY min(key)")
        yield from self._index.ids([key for (key,) in rows])

    def __len__(self) -> int:
        return int(self._index.base.execute("SELECT count(DISTINCT entity) FROM account").fetchone()[0])


class Programs(Mapping[str, Program]):
    """By their ids, in the order in which they began to tell."""

    def __init__(self, index: "Index") -> None:
        self._index = index

    def __getitem__(self, name: str) -> Program:
        return self._index.program(self._index.program_keys()[name])

    def __iter__(self) -> Iterator[str]:
        yield from self._index.program_keys()

    def __len__(self) -> int:
        return len(self._index.program_keys())
