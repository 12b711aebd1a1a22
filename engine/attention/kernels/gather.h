// Copies a sequence's keys and values out of the pools, one token and KV head a thread group.
//   block_table (1, blocks); extent: tokens, slots of the first block before the first token, then padding
//   keys, values (kv_heads, slots, row): the pools; write_fence: not read, see append.h
//   joined_keys, joined_values (kv_heads, length, DIM or VALUE_DIM)
HEAD_TYPES;
const int token = GROUP_X;
const int kv_head = GROUP_Y;
const int position = token + extent[1];
const int slot = block_table[position / BLOCK] * BLOCK + position % BLOCK;
const INDEX from = INDEX(kv_head) * keys_shape[1] + slot;
const INDEX to = INDEX(kv_head) * extent[0] + token;
EACH_THREAD {
  for (int at = TID * VECTOR; at < DIM; at += THREADS * VECTOR) {
    const typename Head::Chunk key = Head::load(keys, from, at);
    UNROLL for (int i = 0; i < VECTOR; ++i) joined_keys[to * DIM + at + i] = T(key.at(i));
  }
  for (int at = TID * VECTOR; at < VALUE_DIM; at += THREADS * VECTOR) {
    const typename ValueHead::Chunk value = ValueHead::load(values, from, at);
    UNROLL for (int i = 0; i < VECTOR; ++i) joined_values[to * VALUE_DIM + at + i] = T(value.at(i));
  }
}
