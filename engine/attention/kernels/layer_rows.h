// Before layer_step.h: the states of the rows are arrays of their own.
//   next_conv (rows, TAPS - 1, channels); next_state (rows, heads, VALUE_DIM, KEY_DIM)
#undef THREADS
#define THREADS GROUP_THREADS
const int from_row = GROUP_Y, to_row = GROUP_Y;
DEVICE T* const conv_to = next_conv;
DEVICE float* const state_to = next_state;
