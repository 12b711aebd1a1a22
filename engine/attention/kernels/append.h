// Stores a prompt slice's keys and values in the pools, one token and KV head a group.
//   new_keys, new_values (1, kv_heads, length, DIM); slots (length or more); done: zeros, to be waited for
HEAD_TYPES;
const int token = GROUP_X;
const int kv_head = GROUP_Y;
const INDEX from = (INDEX(kv_head) * new_keys_shape[2] + token) * DIM;
const INDEX to = INDEX(kv_head) * keys_shape[1] + slots[token];
EACH_THREAD {
  for (int job = TID; job < Head::JOBS; job += THREADS) {
    Head::store((DEVICE Item*)keys, to, new_keys + from, job);
    Head::store((DEVICE Item*)values, to, new_values + from, job);
  }
  if (token == 0 && kv_head == 0 && TID < 8) done[TID] = 0;
}
