// Copies a sequence's keys and values out of the pools, one token and KV head a group.
//   table: its blocks, (1, blocks); extent: length, slots of the first block to skip, then padding
//   joined_keys, joined_values (1, kv_heads, length, DIM)
const int token = GROUP_X;
const int kv_head = GROUP_Y;
const int place = token + extent[1];
const int slot = table[place / BLOCK] * BLOCK + place % BLOCK;
const INDEX from = (INDEX(kv_head) * keys_shape[1] + slot) * DIM;
const INDEX to = (INDEX(kv_head) * extent[0] + token) * DIM;
EACH_THREAD {
  for (int d = TID; d < DIM; d += THREADS) {
    joined_keys[to + d] = keys[from + d];
    joined_values[to + d] = values[from + d];
  }
}
