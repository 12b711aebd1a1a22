// The gated delta rule in chunks of tokens, first part: what needs no state. A thread group takes a chunk and a head.
//   queries, keys (rows, tokens, key_heads, KEY_DIM); gate_times, gate_openings (rows, tokens, heads); log_rates,
//     gate_biases (heads)
//   Where RAW_GATES, a token's log-decay is -exp(log_rate) * softplus(time + bias) and its beta is the sigmoid of its
//     opening times BETA_SCALE; ROUND_TIMES and ROUND_BETAS round them to T as mlx-lm does. Else times are log-decays and
//     openings are betas.
//   inverses (rows * heads, chunks, CHUNK, CHUNK): of the identity plus the lower triangle of beta * decay * key x key
//   pairs (the same): query x key * decay, causal; the columns of each 16 are ordered by COLUMN_PLACE, as delta_scan.h
//     reads them
//   factors (rows * heads, chunks, 3, CHUNK): the decay since the chunk's start, that until its end, beta
// A token beyond the last one has beta 0 and no decay. Products: see MULTIPLY_FLOATS in README.md.
constexpr int BOTH_EXACT = sizeof(T) == 2 ? 2 : 0;
const int num_tokens = keys_shape[1];
const int num_key_heads = keys_shape[2];
const int num_heads = gate_times_shape[2];
const int num_chunks = (num_tokens + CHUNK - 1) / CHUNK;
const int row = GROUP_Y / num_heads;
const int head = GROUP_Y % num_heads;
const int key_head = head / (num_heads / num_key_heads);
const int first_token = GROUP_X * CHUNK;
const INDEX chunk_at = INDEX(GROUP_Y) * num_chunks + GROUP_X;
#define TOKEN_AT(i) (first_token + (i) < num_tokens ? first_token + (i) : num_tokens - 1)

WORKSPACE(float, workspace, CHUNK * LOWER_PITCH + 2 * CHUNK * KEY_PITCH * int(sizeof(T)) / 4);
T* const staged_keys = (T*)(workspace + CHUNK * LOWER_PITCH);
T* const staged_queries = staged_keys + CHUNK * KEY_PITCH;
SHARED(float, log_decay, CHUNK);
SHARED(float, beta, CHUNK);
SHARED(float, sum, CHUNK);
PRIVATE(float, left_key, 8);
PRIVATE(float, left_query, 8);
PRIVATE(float, right, 4);
PRIVATE(float, by_keys, 32);
PRIVATE(float, by_queries, 32);
PRIVATE(float, column, 32);
PRIVATE(float, part, 8);

EACH_THREAD {
  for (int piece = TID; piece < CHUNK * (KEY_DIM / VECTOR_SIZE); piece += THREADS) {
    const int i = piece / (KEY_DIM / VECTOR_SIZE), element = piece % (KEY_DIM / VECTOR_SIZE) * VECTOR_SIZE;
    const INDEX from = ((INDEX(row) * num_tokens + TOKEN_AT(i)) * num_key_heads + key_head) * KEY_DIM + element;
    COPY_PIECE(staged_keys + i * KEY_PITCH + element, keys + from, VECTOR_SIZE);
    COPY_PIECE(staged_queries + i * KEY_PITCH + element, queries + from, VECTOR_SIZE);
  }
  if (TID < CHUNK) {
    const INDEX at = (INDEX(row) * num_tokens + TOKEN_AT(TID)) * num_heads + head;
    float decay = float(gate_times[at]), opening = float(gate_openings[at]);
    if (RAW_GATES) {
      float time = decay + float(gate_biases[head]);
      if (ROUND_TIMES) time = float(T(time));
      time = MAX(time, 0.0f) + LOG1P(EXP(time < 0 ? time : -time));
      if (ROUND_TIMES) time = float(T(time));
      decay = -EXP(float(log_rates[head])) * time;
      opening = 1 / (1 + EXP(-opening));
      if (ROUND_BETAS) opening = float(T(opening));
      opening *= BETA_SCALE;
    }
    const bool is_token = first_token + TID < num_tokens;
    log_decay[TID] = is_token ? MAX(decay, -LARGEST_DECAY) : 0.0f;
    beta[TID] = is_token ? opening : 0.0f;
  }
  UNROLL for (int i = 0; i < 32; ++i) MY(by_keys)[i] = MY(by_queries)[i] = 0;
}
COPIES_DONE;
BARRIER;
EACH_THREAD {
  WRITE_FACTORS(beta)
}

// A warp multiplies 16 keys and 16 queries with all keys. A thread holds four elements of each row in a row of memory,
// which two products take as two each: the order of the terms is the same on both sides.
for (int k = 0; k < KEY_DIM; k += 16) {
  EACH_THREAD {
    UNROLL for (int h = 0; h < 2; ++h) {
      const int at = (TID / 32 * 16 + PAIR_ROW + 8 * h) * KEY_PITCH + k + 2 * PAIR_COLUMN;
      const Pack<T, 4> key = *(const Pack<T, 4>*)(staged_keys + at);
      const Pack<T, 4> query = *(const Pack<T, 4>*)(staged_queries + at);
      UNROLL for (int e = 0; e < 4; ++e) {
        MY(left_key)[e / 2 * 4 + e % 2 * 2 + h] = float(key.at[e]);
        MY(left_query)[e / 2 * 4 + e % 2 * 2 + h] = float(query.at[e]);
      }
    }
  }
  UNROLL for (int n = 0; n < 8; ++n) {
    EACH_THREAD {
      const Pack<T, 4> key = *(const Pack<T, 4>*)(staged_keys + (8 * n + PAIR_ROW) * KEY_PITCH + k + 2 * PAIR_COLUMN);
      UNROLL for (int e = 0; e < 4; ++e) MY(right)[e] = float(key.at[e]);
    }
    UNROLL for (int s = 0; s < 2; ++s) {
      MULTIPLY_FLOATS(by_keys, 4 * n, left_key, 4 * s, right, 2 * s, BOTH_EXACT);
      MULTIPLY_FLOATS(by_queries, 4 * n, left_query, 4 * s, right, 2 * s, BOTH_EXACT);
    }
  }
}
BARRIER;
EACH_THREAD {
  UNROLL for (int n = 0; n < 8; ++n) {
    UNROLL for (int e = 0; e < 4; ++e) {
      const int i = TID / 32 * 16 + PAIR_ROW + e / 2 * 8, j = 8 * n + PAIR_COLUMN + e % 2;
      const float decay = j <= i ? EXP(sum[i] - sum[j]) : 0.0f;
      workspace[i * LOWER_PITCH + j] = j < i ? MY(by_keys)[4 * n + e] * decay * beta[i] : 0.0f;
      pairs[(chunk_at * CHUNK + i) * CHUNK + COLUMN_PLACE(j)] = MY(by_queries)[4 * n + e] * decay;
    }
  }
}
BARRIER;

// The inverse of [[A, 0], [B, C]] is [[A^-1, 0], [-C^-1 B A^-1, C^-1]]. Each of 64 threads solves for one column of A^-1
// or C^-1, which then take the places of A and C; B A^-1 goes to the empty place above the diagonal.
EACH_THREAD {
  if (TID < CHUNK) {
    const int block = TID / 32 * 32;
    UNROLL for (int i = 0; i < 32; ++i) {
      float value = i == TID % 32 ? 1.0f : 0.0f, other = 0;
      UNROLL for (int j = 0; j < i; j += 4) {
        const Pack<float, 4> line = FOUR_AT(workspace + (block + i) * LOWER_PITCH + block + j);
        value -= line.at[0] * MY(column)[j];
        if (j + 1 < i) other -= line.at[1] * MY(column)[j + 1];
        if (j + 2 < i) value -= line.at[2] * MY(column)[j + 2];
        if (j + 3 < i) other -= line.at[3] * MY(column)[j + 3];
      }
      MY(column)[i] = value + other;
    }
  }
}
BARRIER;
EACH_THREAD {
  if (TID < CHUNK) {
    const int block = TID / 32 * 32;
    UNROLL for (int i = 0; i < 32; ++i) workspace[(block + i) * LOWER_PITCH + block + TID % 32] = MY(column)[i];
  }
}
BARRIER;
// Of both products a thread computes 8 elements of a line.
UNROLL for (int product = 0; product < 2; ++product) {
  EACH_THREAD {
    const int i = TID / 4, j = TID % 4 * 8;
    UNROLL for (int e = 0; e < 8; ++e) MY(part)[e] = 0;
    for (int k = 0; k < 32; ++k) {
      const float factor = workspace[(32 + i) * LOWER_PITCH + 32 * product + k];
      UNROLL for (int half_line = 0; half_line < 2; ++half_line) {
        const Pack<float, 4> line = FOUR_AT(workspace + k * LOWER_PITCH + 32 * product + j + 4 * half_line);
        UNROLL for (int e = 0; e < 4; ++e) MY(part)[4 * half_line + e] += factor * line.at[e];
      }
    }
    UNROLL for (int e = 0; e < 8; ++e) {
      if (product == 0) {
        workspace[i * LOWER_PITCH + 32 + j + e] = MY(part)[e];
      } else {
        inverses[(chunk_at * CHUNK + 32 + i) * CHUNK + j + e] = -MY(part)[e];
      }
    }
  }
  BARRIER;
}
EACH_THREAD {
  for (int at = TID; at < CHUNK * CHUNK; at += THREADS) {
    const int i = at / CHUNK, j = at % CHUNK;
    if (i < 32 || j >= 32) inverses[chunk_at * CHUNK * CHUNK + at] = i < 32 && j >= 32 ? 0.0f : workspace[i * LOWER_PITCH + j];
  }
}
