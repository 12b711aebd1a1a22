// Decode attention, pass 1: partial softmax of the query heads of one KV head over one item, a stretch of one
// row's tokens. Flash-decoding (Dao et al. 2023) over a block table.
// The newest token's key and value are stored in the pools on the way.
//   queries (rows, heads, 1, DIM); new_keys, new_values (rows, kv_heads, 1, DIM); keys, values (kv_heads, slots, row)
//   table (rows, blocks); items (n, 4): row, first token, end, the row's newest token
//   outs (n, heads, DIM); stats (n, heads, 2): base-2 peak of the scores, mass relative to it
HEAD_TYPES;
constexpr int TILES = (GROUP + HEADS - 1) / HEADS;
const int item = GROUP_X;
const int kv_head = GROUP_Y / TILES;
const int first_head = GROUP_Y % TILES * HEADS;
const int row = items[4 * item];
const int first = items[4 * item + 1];
const int end = items[4 * item + 2];
const int newest = items[4 * item + 3];
if (first >= end) END_GROUP;  // the table is padded
const int num_heads = queries_shape[1];
const int num_kv_heads = num_heads / GROUP;
const INDEX row_table = INDEX(row) * table_shape[1];
const INDEX pool_head = INDEX(kv_head) * keys_shape[1];

// A team's scores are TOKENS of each head, padded to SCORES. After the sum over lanes each lane keeps OWN of them,
// all of one head: score number s is kept by lane s * LANES / SCORES. A head's scores are kept by HEAD_LANES.
constexpr int SCORES = TOKENS * (HEADS > 4 ? 8 : HEADS > 2 ? 4 : HEADS);
constexpr int OWN = SCORES > LANES ? SCORES / LANES : 1;
constexpr int HEAD_LANES = LANES * TOKENS / SCORES;
constexpr int STAGES = LOG2(LANES);
constexpr int HEAD_STAGES = LOG2(HEAD_LANES);
constexpr int SPAN = TEAMS * TOKENS;

PRIVATE(float, query, HEADS * WIDTH);
PRIVATE(float, sum, HEADS * WIDTH);
PRIVATE(float, score, SCORES);
PRIVATE(float, sent, SCORES);
PRIVATE(float, top, 1);
PRIVATE(float, peak, 1);
PRIVATE(float, mass, 1);
PRIVATE(float, shrink, 1);
typedef typename Head::Piece Loaded;
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
  }
  MY(peak)[0] = LOWEST;
  MY(mass)[0] = 0;
  // All groups that read the newest token write it, the same values, so that each finds it in the pools.
  if (newest < end) {
    const INDEX from = (INDEX(row) * num_kv_heads + kv_head) * DIM;
    const INDEX to = pool_head + table[row_table + newest / BLOCK] * BLOCK + newest % BLOCK;
    for (int job = TID; job < 2 * Head::JOBS; job += THREADS) {
      if (job < Head::JOBS) {
        Head::store((DEVICE Item*)keys, to, new_keys + from, job);
      } else {
        Head::store((DEVICE Item*)values, to, new_values + from, job - Head::JOBS);
      }
    }
  }
}
BARRIER_DEVICE;

// Loads the tokens of a turn. Past the end the last token stands in: what lies there may be NaN, which a weight
// of 0 does not hide.
#define READ_TOKENS(into, pool, from)                                                             \
  {                                                                                               \
    INDEX block = 0;                                                                              \
    UNROLL for (int j = 0; j < TOKENS; ++j) {                                                     \
      const int ahead = (from) + j * TEAMS;                                                       \
      if (j * TEAMS % BLOCK == 0) {                                                               \
        block = pool_head + table[row_table + (ahead < end ? ahead : end - 1) / BLOCK] * BLOCK;   \
      }                                                                                           \
      const int wanted = ahead + team;                                                            \
      const INDEX at = block + (wanted < end ? wanted : end - 1) % BLOCK;                           \
      UNROLL for (int c = 0; c < CHUNKS; ++c) {                                                   \
        MY(into)[j * CHUNKS + c] = Head::load(pool, at, PLACE(lane, c * VECTOR));                 \
      }                                                                                           \
    }                                                                                             \
  }

EACH_THREAD {
  const int lane = TID % LANES;
  const int team = TID / LANES;
  READ_TOKENS(key, keys, first - first % SPAN)
}

// All threads make the same number of turns: lanes that left early would hang the others' shuffles.
for (int start = first - first % SPAN; start < end; start += SPAN) {
  EACH_THREAD {
    const int lane = TID % LANES;
    const int team = TID / LANES;
    READ_TOKENS(value, values, start)
    UNROLL for (int s = 0; s < SCORES; ++s) MY(score)[s] = 0;
    UNROLL for (int j = 0; j < TOKENS; ++j) {
      UNROLL for (int i = 0; i < WIDTH; ++i) {
        const float k = MY(key)[j * CHUNKS + i / VECTOR].at(i % VECTOR);
        UNROLL for (int h = 0; h < HEADS; ++h) MY(score)[h * TOKENS + j] += MY(query)[h * WIDTH + i] * k;
      }
    }
    READ_TOKENS(key, keys, start + SPAN)  // the next ones, under way while these are worked on
  }

  // Sum over lanes (loops of constant length, or they are not unrolled). At each stage a lane hands half of its scores over and keeps the sums of the other half.
  UNROLL for (int stage = 1; stage <= STAGES; ++stage) {
    const int other = LANES >> stage;
    const int kept = SCORES >> stage;
    EACH_THREAD {
      const bool is_upper = TID & other;
      UNROLL for (int s = 0; s < SCORES / 2; ++s) {
        if (s < kept) {
          const float low = MY(score)[s], high = MY(score)[s + kept];
          MY(score)[s] = is_upper ? high : low;
          MY(sent)[s] = is_upper ? low : high;
        }
      }
      if (kept == 0) MY(sent)[0] = MY(score)[0];
    }
    EACH_THREAD {
      UNROLL for (int s = 0; s < SCORES / 2; ++s) {
        if (s < kept || s == 0) MY(score)[s] += FROM_XOR(sent, s, other);
      }
    }
  }

  EACH_THREAD {
    const int first_score = TID % LANES * SCORES / LANES;
    MY(top)[0] = LOWEST;
    UNROLL for (int s = 0; s < OWN; ++s) {
      const int token = start + (first_score + s) % TOKENS * TEAMS + TID / LANES;
      MY(score)[s] = token >= first && token < end ? MY(score)[s] : LOWEST;
      MY(top)[0] = MAX(MY(top)[0], MY(score)[s]);
    }
  }
  UNROLL for (int stage = 1; stage <= HEAD_STAGES; ++stage) {
    EACH_THREAD { MY(sent)[0] = FROM_XOR(top, 0, HEAD_LANES >> stage); }
    EACH_THREAD { MY(top)[0] = MAX(MY(top)[0], MY(sent)[0]); }
  }
  EACH_THREAD {
    // A team that has seen no token yet gives weight to hidden ones; its first real peak wipes them out.
    const float high = MAX(MY(peak)[0], MY(top)[0]);
    MY(shrink)[0] = EXP2(MY(peak)[0] - high);
    MY(peak)[0] = high;
    MY(mass)[0] *= MY(shrink)[0];
    UNROLL for (int s = 0; s < OWN; ++s) {
      MY(score)[s] = EXP2(MY(score)[s] - high);
      MY(mass)[0] += MY(score)[s];
    }
  }
  EACH_THREAD {
    if (ANY(MY(shrink)[0] != 1.0f)) {
      UNROLL for (int h = 0; h < HEADS; ++h) {
        const float factor = FROM_LANE(shrink, 0, h * HEAD_LANES);
        UNROLL for (int i = 0; i < WIDTH; ++i) MY(sum)[h * WIDTH + i] *= factor;
      }
    }
    UNROLL for (int h = 0; h < HEADS; ++h) {
      UNROLL for (int j = 0; j < TOKENS; ++j) {
        const int s = h * TOKENS + j;
        const float weight = FROM_LANE(score, s % OWN, s * LANES / SCORES);
        UNROLL for (int i = 0; i < WIDTH; ++i) {
          MY(sum)[h * WIDTH + i] += weight * MY(value)[j * CHUNKS + i / VECTOR].at(i % VECTOR);
        }
      }
    }
  }
}

EACH_THREAD {
  UNROLL for (int h = 0; h < HEADS; ++h) {
    float total = 0;
    UNROLL for (int s = h * TOKENS; s < (h + 1) * TOKENS; s += OWN) total += FROM_LANE(mass, 0, s * LANES / SCORES);
    const float high = FROM_LANE(peak, 0, h * HEAD_LANES);
    if (TID % LANES == 0) {
      team_peak[TID / LANES * HEADS + h] = high;
      team_mass[TID / LANES * HEADS + h] = total;
    }
  }
}
BARRIER;
UNROLL for (int h = 0; h < HEADS; ++h) {
  EACH_THREAD {
    float high = LOWEST;
    for (int t = 0; t < TEAMS; ++t) high = MAX(high, team_peak[t * HEADS + h]);
    const float factor = EXP2(team_peak[TID / LANES * HEADS + h] - high);
    UNROLL for (int i = 0; i < WIDTH; ++i) {
      team_sum[TID / LANES * DIM + PLACE(TID % LANES, i)] = MY(sum)[h * WIDTH + i] * factor;
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
