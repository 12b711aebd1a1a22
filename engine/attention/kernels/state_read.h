// Copies rows of recurrent states out of their slots, a stretch of a row a thread group.
//   pool (slots, ...): SIZE elements a slot; slots (rows or more): each row's slot
//   write_fence: not read, an input only so that the kernel runs after the last write; next_fence: zeros
//   state_rows (rows, ...)
const INDEX from = INDEX(slots[GROUP_Y]) * SIZE;
const INDEX to = INDEX(GROUP_Y) * SIZE;
EACH_THREAD {
  for (int i = 0; i < PIECES; ++i) {
    const int at = ((GROUP_X * PIECES + i) * THREADS + TID) * VECTOR;
    if (at < SIZE) STORE(state_rows, to + at) = LOAD(pool, from + at);
  }
  if (GROUP_X == 0 && GROUP_Y == 0 && TID < MIN_KERNEL_ELEMENTS) next_fence[TID] = 0;
}
