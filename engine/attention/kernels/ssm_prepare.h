// A state space of Mamba 2 in chunks of tokens, first part: what needs no state. A thread group takes a chunk and a head.
//   writes, reads (rows, tokens, groups, KEY_DIM), which mlx-lm calls B and C
//   times (rows, tokens, heads), log_rates, time_biases, numbers: see ssm_times.h
//   pairs (rows * heads, chunks, CHUNK, CHUNK): read x write * decay, causal; the columns of each 16 are ordered by
//     COLUMN_PLACE, as ssm_scan.h reads them
//   factors (rows * heads, chunks, 3, CHUNK): the decay since the chunk's start, that until its end, the token's time
// A token beyond the last one has time 0 and no decay. Products: see MULTIPLY_FLOATS in README.md.
constexpr int BOTH_EXACT = sizeof(T) == 2 ? 2 : 0;
const int num_tokens = writes_shape[1];
const int num_groups = writes_shape[2];
const int num_heads = times_shape[2];
const int num_chunks = (num_tokens + CHUNK - 1) / CHUNK;
const int row = GROUP_Y / num_heads;
const int head = GROUP_Y % num_heads;
const int group = head / (num_heads / num_groups);
const int first_token = GROUP_X * CHUNK;
const INDEX chunk_at = INDEX(GROUP_Y) * num_chunks + GROUP_X;
#define TOKEN_AT(i) (first_token + (i) < num_tokens ? first_token + (i) : num_tokens - 1)

WORKSPACE(float, workspace, 2 * CHUNK * KEY_PITCH * int(sizeof(T)) / 4);
T* const staged_writes = (T*)workspace;
T* const staged_reads = staged_writes + CHUNK * KEY_PITCH;
SHARED(float, log_decay, CHUNK);
SHARED(float, time, CHUNK);
SHARED(float, sum, CHUNK);
PRIVATE(float, left, 8);
PRIVATE(float, right, 4);
PRIVATE(float, products, 32);

EACH_THREAD {
  for (int piece = TID; piece < CHUNK * (KEY_DIM / VECTOR_SIZE); piece += THREADS) {
    const int i = piece / (KEY_DIM / VECTOR_SIZE), element = piece % (KEY_DIM / VECTOR_SIZE) * VECTOR_SIZE;
    const INDEX from = ((INDEX(row) * num_tokens + TOKEN_AT(i)) * num_groups + group) * KEY_DIM + element;
    COPY_PIECE(staged_writes + i * KEY_PITCH + element, writes + from, VECTOR_SIZE);
    COPY_PIECE(staged_reads + i * KEY_PITCH + element, reads + from, VECTOR_SIZE);
  }
  if (TID < CHUNK) {
    const bool is_token = first_token + TID < num_tokens;
    const float taken = TIME_AT((INDEX(row) * num_tokens + TOKEN_AT(TID)) * num_heads + head, head);
    time[TID] = is_token ? taken : 0.0f;
    log_decay[TID] = is_token ? MAX(-RATE(head) * taken, -LARGEST_DECAY) : 0.0f;
  }
  UNROLL for (int i = 0; i < 32; ++i) MY(products)[i] = 0;
}
COPIES_DONE;
BARRIER;
EACH_THREAD {
  WRITE_FACTORS(time)
}

// A warp multiplies 16 tokens' reads with all writes. A thread holds four elements of each row in a row of memory, which
// two products take as two each: the order of the terms is the same on both sides.
for (int k = 0; k < KEY_DIM; k += 16) {
  EACH_THREAD {
    UNROLL for (int h = 0; h < 2; ++h) {
      const int at = (TID / 32 * 16 + PAIR_ROW + 8 * h) * KEY_PITCH + k + 2 * PAIR_COLUMN;
      const Pack<T, 4> four = *(const Pack<T, 4>*)(staged_reads + at);
      UNROLL for (int e = 0; e < 4; ++e) MY(left)[e / 2 * 4 + e % 2 * 2 + h] = float(four.at[e]);
    }
  }
  UNROLL for (int n = 0; n < 8; ++n) {
    EACH_THREAD {
      const Pack<T, 4> four =
          *(const Pack<T, 4>*)(staged_writes + (8 * n + PAIR_ROW) * KEY_PITCH + k + 2 * PAIR_COLUMN);
      UNROLL for (int e = 0; e < 4; ++e) MY(right)[e] = float(four.at[e]);
    }
    UNROLL for (int s = 0; s < 2; ++s) MULTIPLY_FLOATS(products, 4 * n, left, 4 * s, right, 2 * s, BOTH_EXACT);
  }
}
BARRIER;
EACH_THREAD {
  UNROLL for (int n = 0; n < 8; ++n) {
    UNROLL for (int e = 0; e < 4; ++e) {
      const int i = TID / 32 * 16 + PAIR_ROW + e / 2 * 8, j = 8 * n + PAIR_COLUMN + e % 2;
      const float decay = j <= i ? EXP(sum[i] - sum[j]) : 0.0f;
      pairs[(chunk_at * CHUNK + i) * CHUNK + COLUMN_PLACE(j)] = MY(products)[4 * n + e] * decay;
    }
  }
}
