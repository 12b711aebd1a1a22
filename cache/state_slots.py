"""State slots: which slots for recurrent states are free, and how many holders each has.

This module knows neither tokens nor arrays. A slot holds one sequence's recurrent state over all layers,
as it is after some number of tokens.
"""


class StateAllocator:
    """Reference-counted state slots, numbered from 0. Free + cached + held = all."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.num_cached = 0  # held by the prefix tree alone, so evictable
        self._free = list(range(num_slots - 1, -1, -1))
        self._refs = [0] * num_slots
        self._in_tree = bytearray(num_slots)

    @property
    def num_free(self) -> int:
        """Slots that nobody holds."""
        return len(self._free)

    @property
    def num_held(self) -> int:
        """Slots that some sequence holds."""
        return self.num_slots - self.num_free - self.num_cached

    def ref_count(self, slot: int) -> int:
        """Return how many holders `slot` has, the prefix tree included; 0 when it is free."""
        return self._refs[slot]

    def allocate(self) -> int:
        """Take and return a free slot, with one holder. One must be free."""
        slot = self._free.pop()
        self._refs[slot] = 1
        return slot

    def share(self, slot: int) -> None:
        """Add one holder to `slot`, which may not be free."""
        assert self._refs[slot] > 0, f"state slot {slot} is free"
        if self._refs[slot] == 1:
            self.num_cached -= self._in_tree[slot]
        self._refs[slot] += 1

    def release(self, slot: int) -> None:
        """Drop one holder of `slot`, which becomes free without another one."""
        assert self._refs[slot] > 0, f"state slot {slot} is free already"
        self._refs[slot] -= 1
        if self._refs[slot] == 0:
            self._free.append(slot)
        elif self._refs[slot] == 1:
            self.num_cached += self._in_tree[slot]

    def enter_tree(self, slot: int) -> None:
        """Add the prefix tree as a holder of `slot`, which a sequence holds."""
        assert not self._in_tree[slot], f"state slot {slot} is in the tree already"
        self.share(slot)
        self._in_tree[slot] = True

    def leave_tree(self, slot: int) -> None:
        """Drop the prefix tree as a holder of `slot`."""
        self.num_cached -= self._refs[slot] == 1
        self._in_tree[slot] = False
        self.release(slot)
