// Stores a prompt slice's keys and values in the pools, one token and KV head a thread group.
//   new_keys, new_values (1, kv_heads, length, DIM or VALUE_DIM); slots (length or more): each token's slot, -1 for none
//   keys, values (kv_heads, slots, row): the pools, written in place
//   write_fence: not read, an input only so that the kernel runs after the last write; next_fence: zeros
HEAD_TYPES;
const int token = GROUP_X;
const int kv_head = GROUP_Y;
const INDEX from = INDEX(kv_head) * new_keys_shape[2] + token;
const int slot = slots[token];
const INDEX to = INDEX(kv_head) * keys_shape[1] + slot;
EACH_THREAD {
  for (int unit = TID; slot >= 0 && unit < Head::STORE_UNITS; unit += THREADS) {
    Head::store((DEVICE Item*)keys, to, new_keys + from * DIM, unit);
  }
  for (int unit = TID; slot >= 0 && unit < ValueHead::STORE_UNITS; unit += THREADS) {
    ValueHead::store((DEVICE Item*)values, to, new_values + from * VALUE_DIM, unit);
  }
  if (token == 0 && kv_head == 0 && TID < MIN_KERNEL_ELEMENTS) next_fence[TID] = 0;
}
