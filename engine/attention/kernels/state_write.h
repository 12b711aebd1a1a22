// Copies rows of recurrent states into their slots, in place, a stretch of a row a thread group.
//   state_rows (rows, ...): SIZE elements a row; pool (slots, ...); slots (rows or more): each row's slot
//   write_fence: not read, an input only so that the kernel runs after earlier reads and writes; next_fence: zeros
const INDEX from = INDEX(GROUP_Y) * SIZE;
const INDEX to = INDEX(slots[GROUP_Y]) * SIZE;
EACH_THREAD {
  for (int i = 0; i < PIECES; ++i) {
    const int at = ((GROUP_X * PIECES + i) * THREADS + TID) * VECTOR;
    if (at < SIZE) STORE((DEVICE T*)pool, to + at) = LOAD(state_rows, from + at);
  }
  if (GROUP_X == 0 && GROUP_Y == 0 && TID < MIN_KERNEL_ELEMENTS) next_fence[TID] = 0;
}
