// What the kernels of recurrent layers in chunks of tokens share.
#define COLUMN_PLACE(j) ((j) / 16 * 16 + (j) % 4 * 4 + (j) % 16 / 4)
#define VECTOR_SIZE (16 / int(sizeof(T)))
// Writes a chunk's factors; log_decay, sum: shared memory, of which the second is written.
#define WRITE_FACTORS(third)                                        \
  if (TID < CHUNK) {                                                \
    float until = 0;                                                \
    for (int i = 0; i <= TID; ++i) until += log_decay[i];           \
    float after = 0;                                                \
    for (int i = TID + 1; i < CHUNK; ++i) after += log_decay[i];    \
    sum[TID] = until;                                               \
    factors[chunk_at * 3 * CHUNK + TID] = EXP(until);               \
    factors[chunk_at * 3 * CHUNK + CHUNK + TID] = EXP(after);       \
    factors[chunk_at * 3 * CHUNK + 2 * CHUNK + TID] = (third)[TID]; \
  }
