// Decode attention, pass 1: partial softmax of the query heads of one KV head over one item, a stretch of one
// row's tokens. Flash-decoding (Dao et al. 2023) over a block table.
// The newest token is taken from new_keys and new_values, and stored in the pools on the way.
//   queries (rows, heads, 1, DIM); new_keys, new_values (rows, kv_heads, 1, DIM); keys, values (kv_heads, slots, DIM)
//   table (rows, blocks); items (n, 4): row, first token, end, the row's newest token
//   outs (n, heads, DIM); stats (n, heads, 2): base-2 peak of the scores, mass relative to it
constexpr int TILES = (GROUP + HEADS - 1) / HEADS;
const int item = GROUP_X;
const int kv_head = GROUP_Y / TILES;
const int first_head = GROUP_Y % TILES * HEADS;
const int row = items[4 * item];
const int first = items[4 * item + 1];
const int end = items[4 * item + 2];
const int newest = items[4 * item + 3];
const int num_heads = queries_shape[1];
const int num_kv_heads = num_heads / GROUP;
const INDEX pool_head = INDEX(kv_head) * keys_shape[1];

PRIVATE(float, query, HEADS * WIDTH);
PRIVATE(float, sum, HEADS * WIDTH);
PRIVATE(float, peak, HEADS);
PRIVATE(float, mass, HEADS);
PRIVATE(float, score, TOKENS * HEADS);
typedef Pack<T, VECTOR> Loaded;
PRIVATE(Loaded, key, TOKENS * CHUNKS);
PRIVATE(Loaded, value, TOKENS * CHUNKS);
SHARED(float, team_peak, TEAMS * HEADS);
SHARED(float, team_mass, TEAMS * HEADS);
SHARED(float, team_sum, TEAMS * DIM);

EACH_THREAD {
  const int lane = TID % LANES;
  UNROLL for (int h = 0; h < HEADS; ++h) {
    const int in_group = first_head + h < GROUP ? first_head + h : GROUP - 1;
    const INDEX at = (INDEX(row) * num_heads + kv_head * GROUP + in_group) * DIM;
    UNROLL for (int i = 0; i < WIDTH; ++i) {
      MY(query)[h * WIDTH + i] = float(queries[at + PLACE(lane, i)]) * SCALE;
      MY(sum)[h * WIDTH + i] = 0;
    }
    MY(peak)[h] = LOWEST;
    MY(mass)[h] = 0;
  }
}

// All threads make the same number of turns: lanes that left early would hang a sum over lanes.
for (int start = first; start < end; start += TEAMS * TOKENS) {
  EACH_THREAD {
    const int lane = TID % LANES;
    const int team = TID / LANES;
    UNROLL for (int j = 0; j < TOKENS; ++j) {
      const int wanted = start + j * TEAMS + team;
      const int token = wanted < end ? wanted : end - 1;
      const int block = table[INDEX(row) * table_shape[1] + token / BLOCK];
      const INDEX slot = (pool_head + block * BLOCK + token % BLOCK) * DIM;
      const INDEX fresh = (INDEX(row) * num_kv_heads + kv_head) * DIM;
      const DEVICE T* k = token == newest ? new_keys + fresh : keys + slot;
      const DEVICE T* v = token == newest ? new_values + fresh : values + slot;
      UNROLL for (int c = 0; c < CHUNKS; ++c) {
        MY(key)[j * CHUNKS + c] = LOAD(k, PLACE(lane, c * VECTOR));
        MY(value)[j * CHUNKS + c] = LOAD(v, PLACE(lane, c * VECTOR));
      }
    }
    UNROLL for (int j = 0; j < TOKENS; ++j) {
      UNROLL for (int h = 0; h < HEADS; ++h) MY(score)[j * HEADS + h] = 0;
      UNROLL for (int i = 0; i < WIDTH; ++i) {
        const float k = float(MY(key)[j * CHUNKS + i / VECTOR].at[i % VECTOR]);
        UNROLL for (int h = 0; h < HEADS; ++h) MY(score)[j * HEADS + h] += MY(query)[h * WIDTH + i] * k;
      }
    }
  }
  EACH_THREAD {
    // After the loads: a store among them would keep the compiler from batching them.
    UNROLL for (int j = 0; j < TOKENS; ++j) {
      if (start + j * TEAMS + TID / LANES == newest && first_head == 0) {
        const int block = table[INDEX(row) * table_shape[1] + newest / BLOCK];
        const INDEX slot = (pool_head + block * BLOCK + newest % BLOCK) * DIM;
        UNROLL for (int c = 0; c < CHUNKS; ++c) {
          STORE((DEVICE T*)keys, slot + PLACE(TID % LANES, c * VECTOR)) = MY(key)[j * CHUNKS + c];
          STORE((DEVICE T*)values, slot + PLACE(TID % LANES, c * VECTOR)) = MY(value)[j * CHUNKS + c];
        }
      }
    }
  }
  LANES_SUM(score, TOKENS * HEADS)
  EACH_THREAD {
    const int team = TID / LANES;
    UNROLL for (int h = 0; h < HEADS; ++h) {
      float high = MY(peak)[h];
      UNROLL for (int j = 0; j < TOKENS; ++j) {
        if (start + j * TEAMS + team < end) high = MAX(high, MY(score)[j * HEADS + h]);
      }
      const float shrink = EXP2(MY(peak)[h] - high);
      MY(peak)[h] = high;
      MY(mass)[h] *= shrink;
      UNROLL for (int i = 0; i < WIDTH; ++i) MY(sum)[h * WIDTH + i] *= shrink;
      UNROLL for (int j = 0; j < TOKENS; ++j) {
        const bool is_seen = start + j * TEAMS + team < end;
        const float weight = is_seen ? EXP2(MY(score)[j * HEADS + h] - high) : 0.0f;
        MY(score)[j * HEADS + h] = weight;
        MY(mass)[h] += weight;
      }
    }
    UNROLL for (int j = 0; j < TOKENS; ++j) {
      UNROLL for (int i = 0; i < WIDTH; ++i) {
        const float v = float(MY(value)[j * CHUNKS + i / VECTOR].at[i % VECTOR]);
        UNROLL for (int h = 0; h < HEADS; ++h) MY(sum)[h * WIDTH + i] += MY(score)[j * HEADS + h] * v;
      }
    }
  }
}

EACH_THREAD {
  if (TID % LANES == 0) {
    UNROLL for (int h = 0; h < HEADS; ++h) {
      team_peak[TID / LANES * HEADS + h] = MY(peak)[h];
      team_mass[TID / LANES * HEADS + h] = MY(mass)[h];
    }
  }
}
BARRIER;
UNROLL for (int h = 0; h < HEADS; ++h) {
  EACH_THREAD {
    float high = LOWEST;
    for (int t = 0; t < TEAMS; ++t) high = MAX(high, team_peak[t * HEADS + h]);
    const float shrink = EXP2(MY(peak)[h] - high);
    UNROLL for (int i = 0; i < WIDTH; ++i) {
      team_sum[TID / LANES * DIM + PLACE(TID % LANES, i)] = MY(sum)[h * WIDTH + i] * shrink;
    }
  }
  BARRIER;
  EACH_THREAD {
    if (first_head + h < GROUP) {
      const INDEX part = INDEX(item) * num_heads + kv_head * GROUP + first_head + h;
      for (int d = TID; d < DIM; d += THREADS) {
        float total = 0;
        for (int t = 0; t < TEAMS; ++t) total += team_sum[t * DIM + d];
        outs[part * DIM + d] = total;
      }
      if (TID == 0) {
        float high = LOWEST, total = 0;
        for (int t = 0; t < TEAMS; ++t) high = MAX(high, team_peak[t * HEADS + h]);
        for (int t = 0; t < TEAMS; ++t) total += team_mass[t * HEADS + h] * EXP2(team_peak[t * HEADS + h] - high);
        stats[2 * part] = high;
        stats[2 * part + 1] = total;
      }
    }
  }
  BARRIER;
}
