// Decode attention, pass 1: partial softmax of the query heads of one KV head over one split, a stretch of one
// row's tokens. Flash-decoding (Dao et al. 2023) over a block table.
// It also stores the newest token's key and value in the pools.
//   queries (rows, heads, 1, DIM); new_keys, new_values (rows, kv_heads, 1, DIM or VALUE_DIM)
//   keys, values (kv_heads, slots, row): the pools, written in place; write_fence: not read, see append.h
//   block_table (rows, blocks); splits (n, SPLIT_COLUMNS), empty ones at the end
//   split_outs (n, heads, VALUE_DIM): weighted sums of values; split_stats (n, heads, 2): peak of the scores in base 2,
//     mass relative to it
//
// A thread group, in the numbers of DIM 128, GROUP 4 and 16-bit elements (Geometry in source.py chooses them):
//
//   128 threads = SUBGROUPS 8 x LANES 16; all HEADS 4 query heads of one KV head
//
//   ITERATIONS over a split, here tokens 40 to 99. Each takes SPAN = SUBGROUPS * TOKENS = 32 tokens and starts at a
//   multiple of SPAN, so that the SUBGROUPS tokens of one j lie in one block. Tokens outside the split (x) weigh 0.
//
//     32      40                      64                              96  100                         128
//     |xxxxxxx|-----------------------|-------------------------------|---|xxxxxxxxxxxxxxxxxxxxxxxxxxx|
//      start = 32                      start = 64                      start = 96
//
//   TOKENS 4 of them are a subgroup's: token `start + j * SUBGROUPS + subgroup` for j = 0 to 3.
//
//     token - start   0  1  2  3  4  5  6  7 | 8  9 ... 15 | 16 ... 23 | 24 ... 31
//     subgroup        0  1  2  3  4  5  6  7 | 0  1 ...  7 |  0 ...  7 |  0 ...  7
//     j                         0            |      1      |     2     |     3
//
//   ELEMENTS. A lane holds WIDTH 8 elements of each of 4 queries and 4 keys, and VALUE_WIDTH 8 of each of 4 sums and 4
//   values. They are CHUNKS 1 of VECTOR 8 (in float32 2 of 4, LANES * VECTOR elements apart; PLACE counts them).
//
//     lane           0       1       2          15
//     elements       0-7     8-15    16-23 ...  120-127
//
//   SCORES. A lane multiplies its elements for each head h and token j: SCORES 16 partial dot products, number
//   h * TOKENS + j. The sum over lanes exchanges halves (a reduce-scatter): in each of STAGES 4 a lane hands half of
//   its scores to the lane whose number differs in one bit, gets the other's share of the half that it keeps, and adds.
//
//     stage          1                           2              3            4
//     lanes apart    8                           4              2            1
//     kept of 16     8: 0-7 by lanes 0-7,        4: 0-3, 4-7,   2: 0-1, ...  1: score s by lane s
//                       8-15 by lanes 8-15          8-11, 12-15
//
//   Then a lane keeps KEPT 1 score, and HEAD_LANES 4 lanes keep a head's:
//
//     lane           0  1  2  3 | 4  5  6  7 | 8  9 10 11 | 12 13 14 15
//     head h              0     |      1     |      2     |      3
//     j              0  1  2  3 | 0  1  2  3 | 0  1  2  3 |  0  1  2  3
//
//   With fewer scores than lanes (GROUP 1: 4 scores), the last stages add whole scores, and LANES / SCORES neighbours
//   keep the same one. With more (DIM 64, GROUP 8: 8 lanes, 32 scores), a lane keeps KEPT 4 of one head. HEADS 3 counts
//   as 4, HEADS 5 to 7 as 8. A GROUP of more heads than a thread group takes is divided among TILES thread groups.
//
//   SOFTMAX. A head's HEAD_LANES agree on the peak of its scores; each sums the mass of the scores that it keeps. Every
//   lane fetches all weights from the lanes that keep them and adds weight * value to its sums.
//
//   AT THE END each subgroup has seen other tokens. The subgroups write their peaks and masses to shared memory, then,
//   head by head, their sums, scaled to the highest peak; thread d adds up element d of the 8 subgroups.
HEAD_TYPES;
constexpr int TILES = (GROUP + HEADS - 1) / HEADS;
const int split = GROUP_X;
const int kv_head = GROUP_Y / TILES;
const int first_head = GROUP_Y % TILES * HEADS;
const int row = splits[SPLIT_COLUMNS * split + SPLIT_ROW];
const int first = splits[SPLIT_COLUMNS * split + SPLIT_FIRST];
const int end = splits[SPLIT_COLUMNS * split + SPLIT_END];
const int newest = splits[SPLIT_COLUMNS * split + SPLIT_NEWEST];
if (first >= end) END_GROUP;  // an empty split pads the table
const int num_heads = queries_shape[1];
const int num_kv_heads = num_heads / GROUP;
const INDEX row_blocks = INDEX(row) * block_table_shape[1];
const INDEX pool_head = INDEX(kv_head) * keys_shape[1];

// A subgroup's scores are TOKENS of each head, padded to SCORES. After the sum over lanes each lane keeps KEPT of them,
// all of one head: score number s is kept by lane s * LANES / SCORES. A head's scores are kept by HEAD_LANES lanes.
constexpr int SCORES = TOKENS * (HEADS > 4 ? 8 : HEADS > 2 ? 4 : HEADS);
constexpr int KEPT = SCORES > LANES ? SCORES / LANES : 1;
constexpr int HEAD_LANES = LANES * TOKENS / SCORES;
constexpr int STAGES = LOG2(LANES);
constexpr int HEAD_STAGES = LOG2(HEAD_LANES);
constexpr int SPAN = SUBGROUPS * TOKENS;

PRIVATE(float, query, HEADS * WIDTH);
PRIVATE(float, sum, HEADS * VALUE_WIDTH);
PRIVATE(float, score, SCORES);
PRIVATE(float, exchange, SCORES);
PRIVATE(float, top, 1);
PRIVATE(float, peak, 1);
PRIVATE(float, mass, 1);
PRIVATE(float, shrink, 1);
typedef typename Head::Chunk Chunk;
typedef typename ValueHead::Chunk ValueChunk;
PRIVATE(Chunk, key, TOKENS * CHUNKS);
PRIVATE(ValueChunk, value, TOKENS * VALUE_CHUNKS);
SHARED(float, subgroup_peak, SUBGROUPS * HEADS);
SHARED(float, subgroup_mass, SUBGROUPS * HEADS);
SHARED(float, subgroup_sum, SUBGROUPS * VALUE_DIM);

EACH_THREAD {
  const int lane = TID % LANES;
  UNROLL for (int h = 0; h < HEADS; ++h) {
    const int in_group = first_head + h < GROUP ? first_head + h : GROUP - 1;
    const INDEX at = (INDEX(row) * num_heads + kv_head * GROUP + in_group) * DIM;
    UNROLL for (int i = 0; i < WIDTH; ++i) {
      MY(query)[h * WIDTH + i] = float(queries[at + PLACE(lane, i)]) * SCALE;
    }
    UNROLL for (int i = 0; i < VALUE_WIDTH; ++i) MY(sum)[h * VALUE_WIDTH + i] = 0;
  }
  MY(peak)[0] = LOWEST;
  MY(mass)[0] = 0;
  // Every thread group that reads the newest token stores it first, and all store the same.
  if (newest < end) {
    const INDEX from = INDEX(row) * num_kv_heads + kv_head;
    const INDEX to = pool_head + block_table[row_blocks + newest / BLOCK] * BLOCK + newest % BLOCK;
    for (int unit = TID; unit < Head::STORE_UNITS + ValueHead::STORE_UNITS; unit += THREADS) {
      if (unit < Head::STORE_UNITS) {
        Head::store((DEVICE Item*)keys, to, new_keys + from * DIM, unit);
      } else {
        ValueHead::store((DEVICE Item*)values, to, new_values + from * VALUE_DIM, unit - Head::STORE_UNITS);
      }
    }
  }
}
BARRIER_DEVICE;

// Loads a lane's elements of an iteration's tokens. Past the split's end it loads the last token again: other slots may
// hold NaN, which a weight of 0 does not hide.
#define READ_TOKENS(into, ROW, COUNT, pool, from)                                                      \
  {                                                                                                    \
    INDEX block = 0;                                                                                   \
    UNROLL for (int j = 0; j < TOKENS; ++j) {                                                          \
      const int ahead = (from) + j * SUBGROUPS;                                                        \
      if (j * SUBGROUPS % BLOCK == 0) {                                                                \
        block = pool_head + block_table[row_blocks + (ahead < end ? ahead : end - 1) / BLOCK] * BLOCK; \
      }                                                                                                \
      const int wanted = ahead + subgroup;                                                             \
      const INDEX at = block + (wanted < end ? wanted : end - 1) % BLOCK;                              \
      UNROLL for (int c = 0; c < COUNT; ++c) {                                                         \
        MY(into)[j * COUNT + c] = ROW::load(pool, at, PLACE(lane, c * VECTOR));                        \
      }                                                                                                \
    }                                                                                                  \
  }

EACH_THREAD {
  const int lane = TID % LANES;
  const int subgroup = TID / LANES;
  READ_TOKENS(key, Head, CHUNKS, keys, first - first % SPAN)
}

// All threads make the same number of iterations: lanes that left early would hang the others' shuffles.
for (int start = first - first % SPAN; start < end; start += SPAN) {
  EACH_THREAD {
    const int lane = TID % LANES;
    const int subgroup = TID / LANES;
    READ_TOKENS(value, ValueHead, VALUE_CHUNKS, values, start)
    UNROLL for (int s = 0; s < SCORES; ++s) MY(score)[s] = 0;
    UNROLL for (int j = 0; j < TOKENS; ++j) {
      UNROLL for (int i = 0; i < WIDTH; ++i) {
        const float k = MY(key)[j * CHUNKS + i / VECTOR].at(i % VECTOR);
        UNROLL for (int h = 0; h < HEADS; ++h) MY(score)[h * TOKENS + j] += MY(query)[h * WIDTH + i] * k;
      }
    }
    READ_TOKENS(key, Head, CHUNKS, keys, start + SPAN)  // the next iteration's, under way while this one computes
  }

  // Sum over lanes: at each stage a lane hands half of its scores over and keeps the sums of the other half. Loops with
  // bounds that are not constant would not be unrolled.
  UNROLL for (int stage = 1; stage <= STAGES; ++stage) {
    const int other = LANES >> stage;
    const int num_kept = SCORES >> stage;
    EACH_THREAD {
      const bool is_upper = TID & other;
      UNROLL for (int s = 0; s < SCORES / 2; ++s) {
        if (s < num_kept) {
          const float low = MY(score)[s], high = MY(score)[s + num_kept];
          MY(score)[s] = is_upper ? high : low;
          MY(exchange)[s] = is_upper ? low : high;
        }
      }
      if (num_kept == 0) MY(exchange)[0] = MY(score)[0];
    }
    EACH_THREAD {
      UNROLL for (int s = 0; s < SCORES / 2; ++s) {
        if (s < num_kept || s == 0) MY(score)[s] += FROM_XOR(exchange, s, other);
      }
    }
  }

  EACH_THREAD {
    const int first_score = TID % LANES * SCORES / LANES;
    MY(top)[0] = LOWEST;
    UNROLL for (int s = 0; s < KEPT; ++s) {
      const int token = start + (first_score + s) % TOKENS * SUBGROUPS + TID / LANES;
      MY(score)[s] = token >= first && token < end ? MY(score)[s] : LOWEST;
      MY(top)[0] = MAX(MY(top)[0], MY(score)[s]);
    }
  }
  UNROLL for (int stage = 1; stage <= HEAD_STAGES; ++stage) {
    EACH_THREAD { MY(exchange)[0] = FROM_XOR(top, 0, HEAD_LANES >> stage); }
    EACH_THREAD { MY(top)[0] = MAX(MY(top)[0], MY(exchange)[0]); }
  }
  EACH_THREAD {
    // A subgroup that has seen no token of the split yet gives weight to tokens outside it; its first real peak
    // shrinks their mass and sums to 0.
    const float high = MAX(MY(peak)[0], MY(top)[0]);
    MY(shrink)[0] = EXP2(MY(peak)[0] - high);
    MY(peak)[0] = high;
    MY(mass)[0] *= MY(shrink)[0];
    UNROLL for (int s = 0; s < KEPT; ++s) {
      MY(score)[s] = EXP2(MY(score)[s] - high);
      MY(mass)[0] += MY(score)[s];
    }
  }
  EACH_THREAD {
    if (ANY(MY(shrink)[0] != 1.0f)) {
      UNROLL for (int h = 0; h < HEADS; ++h) {
        const float factor = FROM_LANE(shrink, 0, h * HEAD_LANES);
        UNROLL for (int i = 0; i < VALUE_WIDTH; ++i) MY(sum)[h * VALUE_WIDTH + i] *= factor;
      }
    }
    UNROLL for (int h = 0; h < HEADS; ++h) {
      UNROLL for (int j = 0; j < TOKENS; ++j) {
        const int s = h * TOKENS + j;
        const float weight = FROM_LANE(score, s % KEPT, s * LANES / SCORES);
        UNROLL for (int i = 0; i < VALUE_WIDTH; ++i) {
          MY(sum)[h * VALUE_WIDTH + i] += weight * MY(value)[j * VALUE_CHUNKS + i / VECTOR].at(i % VECTOR);
        }
      }
    }
  }
}

EACH_THREAD {
  UNROLL for (int h = 0; h < HEADS; ++h) {
    float total = 0;
    UNROLL for (int s = h * TOKENS; s < (h + 1) * TOKENS; s += KEPT) total += FROM_LANE(mass, 0, s * LANES / SCORES);
    const float high = FROM_LANE(peak, 0, h * HEAD_LANES);
    if (TID % LANES == 0) {
      subgroup_peak[TID / LANES * HEADS + h] = high;
      subgroup_mass[TID / LANES * HEADS + h] = total;
    }
  }
}
BARRIER;
UNROLL for (int h = 0; h < HEADS; ++h) {
  EACH_THREAD {
    float high = LOWEST;
    for (int t = 0; t < SUBGROUPS; ++t) high = MAX(high, subgroup_peak[t * HEADS + h]);
    const float factor = EXP2(subgroup_peak[TID / LANES * HEADS + h] - high);
    UNROLL for (int i = 0; i < VALUE_WIDTH; ++i) {
      subgroup_sum[TID / LANES * VALUE_DIM + PLACE(TID % LANES, i)] = MY(sum)[h * VALUE_WIDTH + i] * factor;
    }
  }
  BARRIER;
  EACH_THREAD {
    if (first_head + h < GROUP) {
      const INDEX partial = INDEX(split) * num_heads + kv_head * GROUP + first_head + h;
      for (int d = TID; d < VALUE_DIM; d += THREADS) {
        float total = 0;
        for (int t = 0; t < SUBGROUPS; ++t) total += subgroup_sum[t * VALUE_DIM + d];
        split_outs[partial * VALUE_DIM + d] = total;
      }
      if (TID == 0) {
        float high = LOWEST, total = 0;
        for (int t = 0; t < SUBGROUPS; ++t) high = MAX(high, subgroup_peak[t * HEADS + h]);
        for (int t = 0; t < SUBGROUPS; ++t) {
          total += subgroup_mass[t * HEADS + h] * EXP2(subgroup_peak[t * HEADS + h] - high);
        }
        split_stats[2 * partial] = high;
        split_stats[2 * partial + 1] = total;
      }
    }
  }
  BARRIER;
}
