// Stores a prompt slice's keys and values in the pools, one token and KV head a group.
//   new_keys, new_values (1, kv_heads, length, DIM); slots (length or more); done: zeros, to be waited for
const int token = GROUP_X;
const int kv_head = GROUP_Y;
const INDEX from = (INDEX(kv_head) * new_keys_shape[2] + token) * DIM;
const INDEX to = (INDEX(kv_head) * keys_shape[1] + slots[token]) * DIM;
EACH_THREAD {
  for (int d = TID; d < DIM; d += THREADS) {
    ((DEVICE T*)keys)[to + d] = new_keys[from + d];
    ((DEVICE T*)values)[to + d] = new_values[from + d];
  }
  if (token == 0 && kv_head == 0 && TID < 8) done[TID] = 0;
}
