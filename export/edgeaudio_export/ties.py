"""Which tensors must share one scale and zero point: union-find over names."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Ties(Generic[Key]):
    """Disjoint sets; the earliest member that was added leads its set."""

    def __init__(self) -> None:
        self._parent: dict[Key, Key] = {}
        self._order: dict[Key, int] = {}

    def add(self, member: Key) -> None:
        """Make ``member`` known, alone unless it already is."""
        if member not in self._parent:
            self._parent[member] = member
            self._order[member] = len(self._order)

    def leader(self, member: Key) -> Key:
        """The member that stands for the whole set."""
        self.add(member)
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def tie(self, first: Key, second: Key) -> None:
        """Join the sets of the two."""
        one, other = self.leader(first), self.leader(second)
        if self._order[one] > self._order[other]:
            one, other = other, one
        self._parent[other] = one

    def groups(self) -> dict[Key, tuple[Key, ...]]:
        """Leader to all members, both in the order of addition."""
        members: dict[Key, list[Key]] = {}
        for member in self._order:
            members.setdefault(self.leader(member), []).append(member)
        return {leader: tuple(group) for leader, group in members.items()}
