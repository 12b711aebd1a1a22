// Before layer_step.h: the rows' states lie in slots of pools, conv_state and state, which are written in place.
//   slots_before, slots_after (rows or more): no row's slot before is another's after
//   conv_fence, write_fence: not read, inputs only so that the kernel runs after earlier reads and writes; next_fence: zeros
#undef THREADS
#define THREADS GROUP_THREADS
const int from_row = slots_before[GROUP_Y], to_row = slots_after[GROUP_Y];
DEVICE T* const conv_to = (DEVICE T*)conv_state;
DEVICE float* const state_to = (DEVICE float*)state;
EACH_THREAD {
  if (GROUP_X == 0 && GROUP_Y == 0 && TID < MIN_KERNEL_ELEMENTS) next_fence[TID] = 0;
}
