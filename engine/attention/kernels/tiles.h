// Attention of many queries to one stretch of tokens on matrix units: a partial softmax of a tile, which is up to
// TILE_QUERIES queries of one KV head's query heads, over a span of tokens that all of them may read. Tiles serve the
// slices of prompts and the stretches of slots that several decode rows share.
// FlashAttention-2 (Dao 2023) over a block table, with the query heads of a KV head stacked as rows.
//   queries (rows, heads, length, DIM); query number n is row n / length at place n % length
//   keys, values (kv_heads, slots, row): the pools; write_fence: not read, see append.h
//   block_table (r, blocks); tiles (n, TILE_COLUMNS + 2 * TILE_QUERIES): a row of the block table, the span, then for
//     each query its number, -1 for none, and its limit: it sees the tokens of the span before its limit and, where
//     WINDOW is not 0, from WINDOW before its limit on. Empty tiles are padding.
//   tile_outs (n * TILE_QUERIES, heads, VALUE_DIM): weighted sums of values; tile_stats (n * TILE_QUERIES, heads, 2): peak of
//     the scores in base 2, mass relative to it; both for partial number tile * TILE_QUERIES + query
//
// ROWS. A tile's ROWS = 4 warps * ROW_TILES * 16 stacked rows: row r is query r / HEADS, head r % HEADS. In the numbers
// of HEADS 4 and ROW_TILES 2 a tile has 32 queries, and rows 32 to 63 are the second warp's: queries 8 to 15. A GROUP of
// more heads than rows is divided among HEAD_TILES thread groups.
//
// COLUMNS. Where heads are too wide for that, COLUMN_WARPS is 4, not 1: all warps have the same ROW_TILES * 16 rows, and
// each has a quarter of the columns of queries, keys, values and sums. A warp's scores are then a part of the whole
// ones: all warps add up the parts, through shared memory, and compute the same weights.
//
// MATRICES. A warp multiplies 16 x 16 by 16 x 8 (MULTIPLY). A thread holds pairs of neighbouring elements: of a product
// of 16 x 8 the pairs (PAIR_ROW, PAIR_COLUMN) and (PAIR_ROW + 8, PAIR_COLUMN); which lane holds which pair is the
// language's own business, but left operands and products agree, so that weights go from one product to the next
// without leaving the thread's registers. Four lanes share a row, LANES_OF_ROW_1 and LANES_OF_ROW_2 apart.
//
// ITERATIONS. Each takes KEYS tokens: scores while the values are on their way, weights, sums while the next keys are.
// With ONE_BUFFER values take their keys' place, or, where they lie in keys, are already there.
HEAD_TYPES;
constexpr int ROWS = WARPS / COLUMN_WARPS * ROW_TILES * 16;
constexpr int TILE_WIDTH = TILE_COLUMNS + 2 * TILE_QUERIES;
constexpr int PITCH = DIM + 8;  // of a staged row: eight rows lie in different banks
constexpr int VALUE_PITCH = VALUES_IN_KEYS ? PITCH : VALUE_DIM + 8;
constexpr int SCORE_TILES = KEYS / 8;
constexpr int SUM_TILES = VALUE_DIM / 8 / COLUMN_WARPS;
constexpr int STEPS = DIM / 16 / COLUMN_WARPS;  // of the product of queries and keys
const int tile_at = GROUP_X * TILE_WIDTH;
const int kv_head = GROUP_Y / HEAD_TILES;
const int first_head = GROUP_Y % HEAD_TILES * HEADS;
const int first = tiles[tile_at + TILE_FIRST];
const int end = tiles[tile_at + TILE_END];
if (first >= end) END_GROUP;  // an empty tile pads the table
const int num_heads = queries_shape[1];
const int length = queries_shape[2];
const INDEX row_blocks = INDEX(tiles[tile_at + TILE_ROW]) * block_table_shape[1];
const INDEX pool_head = INDEX(kv_head) * keys_shape[1];

WORKSPACE(T, workspace, (HOLD_QUERIES ? 0 : ROWS * PITCH) + KEYS * PITCH + (ONE_BUFFER ? 0 : KEYS * VALUE_PITCH));
#define KEY_TILE (HOLD_QUERIES ? 0 : ROWS * PITCH)
#define VALUE_TILE (KEY_TILE + (ONE_BUFFER ? 0 : KEYS * PITCH))
typedef Pack<float, 4> Four;
SHARED(Four, parts, COLUMN_WARPS > 1 ? ROW_TILES * SCORE_TILES * THREADS : 1);

PRIVATE(float, sum, ROW_TILES * SUM_TILES * 4);
PRIVATE(float, score, ROW_TILES * SCORE_TILES * 4);
PRIVATE(PAIR_TYPE, left, HOLD_QUERIES ? ROW_TILES * STEPS * 4 : ROW_TILES * 4);
PRIVATE(PAIR_TYPE, weight, ROW_TILES * 4);
PRIVATE(PAIR_TYPE, right, 4);
PRIVATE(int, low, ROW_TILES * 2);
PRIVATE(int, high, ROW_TILES * 2);
PRIVATE(float, peak, ROW_TILES * 2);
PRIVATE(float, mass, ROW_TILES * 2);
PRIVATE(float, top, ROW_TILES * 2);
PRIVATE(float, shrink, ROW_TILES * 2);

// A thread's rows are numbered i = 0 to ROW_TILES * 2 - 1.
#define WARP_ROW(m) ((TID / 32 / COLUMN_WARPS * ROW_TILES + (m)) * 16)
#define COLUMN_WARP (TID / 32 % COLUMN_WARPS)
#define KEY_COLUMN (COLUMN_WARP * STEPS * 16)
#define VALUE_COLUMN (COLUMN_WARP * SUM_TILES * 8)
#define ROW_OF(i) (WARP_ROW((i) / 2) + (i) % 2 * 8 + PAIR_ROW)
// The query of a stacked row: a number, -1 for none. Rows beyond the last query repeat it; they are not stored.
#define QUERY_PLACE(r) ((r) / HEADS < TILE_QUERIES ? (r) / HEADS : TILE_QUERIES - 1)
#define QUERY_OF(r) tiles[tile_at + TILE_COLUMNS + 2 * QUERY_PLACE(r)]
#define LIMIT_OF(r) tiles[tile_at + TILE_COLUMNS + 2 * QUERY_PLACE(r) + 1]
#define LOADED_QUERY(r) (QUERY_OF(r) < 0 ? 0 : QUERY_OF(r))
#define HEAD_OF(r) (first_head + (r) % HEADS)  // may lie beyond the last one; loaded is then the first
#define QUERY_AT(r)                                                                                                    \
  (((INDEX(LOADED_QUERY(r)) / length * num_heads + kv_head * GROUP + (HEAD_OF(r) < GROUP ? HEAD_OF(r) : 0)) * length + \
    LOADED_QUERY(r) % length) * DIM)

// Stages the first `size` elements of a tile of a pool's rows. Past the span's end it stages the last token again: other
// slots may hold NaN, which a weight of 0 does not hide.
#define STAGE_KEYS(from) STAGE(KEY_TILE, Head, keys, DIM, PITCH, from)
#define STAGE_VALUES(from) STAGE(VALUE_TILE, ValueHead, values, VALUE_DIM, VALUE_PITCH, from)
#define STAGE(tile, ROW, pool, size, pitch, from)                                             \
  for (int chunk = TID; chunk < KEYS * (size / VECTOR); chunk += THREADS) {                   \
    const int wanted = (from) + chunk / (size / VECTOR);                                      \
    const int token = wanted < end ? wanted : end - 1;                                        \
    const int element = chunk % (size / VECTOR) * VECTOR;                                     \
    const int at = (tile) + chunk / (size / VECTOR) * pitch + element;                        \
    const INDEX row = pool_head + block_table[row_blocks + token / BLOCK] * BLOCK + token % BLOCK; \
    if (COPIES_ASYNC && BITS == 0) {                                                          \
      COPY_ASYNC(workspace + at, pool + row * size + element);                                \
    } else {                                                                                  \
      const typename ROW::Chunk loaded = ROW::load(pool, row, element);                       \
      UNROLL for (int i = 0; i < VECTOR; ++i) workspace[at + i] = T(loaded.at(i));            \
    }                                                                                         \
  }

EACH_THREAD {
  UNROLL for (int i = 0; i < ROW_TILES * 2; ++i) {
    const int limit = LIMIT_OF(ROW_OF(i));
    const bool is_used = QUERY_OF(ROW_OF(i)) >= 0;
    MY(high)[i] = is_used && limit < end ? limit : end;
    MY(low)[i] = is_used && WINDOW && limit - WINDOW > first ? limit - WINDOW : first;
    MY(peak)[i] = LOWEST;
    MY(mass)[i] = 0;
  }
  UNROLL for (int i = 0; i < ROW_TILES * SUM_TILES * 4; ++i) MY(sum)[i] = 0;
  if (HOLD_QUERIES) {
    UNROLL for (int m = 0; m < ROW_TILES; ++m) {
      UNROLL for (int half_row = 0; half_row < 2; ++half_row) {
        const DEVICE T* query = queries + QUERY_AT(ROW_OF(2 * m + half_row));
        UNROLL for (int step = 0; step < STEPS; ++step) {
          UNROLL for (int side = 0; side < 2; ++side) {
            MY(left)[(m * STEPS + step) * 4 + side * 2 + half_row] =
                PAIR_AT(query + KEY_COLUMN + step * 16 + side * 8 + PAIR_COLUMN);
          }
        }
      }
    }
  } else {
    for (int chunk = TID; chunk < ROWS * (DIM / VECTOR); chunk += THREADS) {
      const int r = chunk / (DIM / VECTOR), element = chunk % (DIM / VECTOR) * VECTOR;
      const Pack<T, VECTOR> loaded = LOAD(queries, QUERY_AT(r) + element);
      UNROLL for (int i = 0; i < VECTOR; ++i) workspace[r * PITCH + element + i] = loaded.at[i];
    }
  }
  if (!ONE_BUFFER) STAGE_KEYS(first - first % KEYS)
}

// All threads make the same number of iterations.
for (int start = first - first % KEYS; start < end; start += KEYS) {
  if (ONE_BUFFER) {
    BARRIER;
    EACH_THREAD { STAGE_KEYS(start) }
  }
  COPIES_DONE;
  BARRIER;
  EACH_THREAD {
    if (!ONE_BUFFER) STAGE_VALUES(start)
    UNROLL for (int i = 0; i < ROW_TILES * SCORE_TILES * 4; ++i) MY(score)[i] = 0;
  }
  UNROLL for (int step = 0; step < STEPS; ++step) {
    if (!HOLD_QUERIES) {
      EACH_THREAD {
        UNROLL for (int m = 0; m < ROW_TILES; ++m) {
          LOAD_LEFT(left, m * 4, workspace + WARP_ROW(m) * PITCH + KEY_COLUMN + step * 16, PITCH);
        }
      }
    }
    UNROLL for (int n = 0; n < SCORE_TILES; n += 2) {
      EACH_THREAD { LOAD_RIGHT_BY_ROW(right, workspace + KEY_TILE + n * 8 * PITCH + KEY_COLUMN + step * 16, PITCH); }
      UNROLL for (int m = 0; m < ROW_TILES; ++m) {
        const int from = (HOLD_QUERIES ? m * STEPS + step : m) * 4;
        MULTIPLY(score, (m * SCORE_TILES + n) * 4, left, from, right, 0);
        MULTIPLY(score, (m * SCORE_TILES + n + 1) * 4, left, from, right, 2);
      }
    }
  }
  if (COLUMN_WARPS > 1) {
    EACH_THREAD {
      UNROLL for (int i = 0; i < ROW_TILES * SCORE_TILES; ++i) {
        Four part;
        UNROLL for (int e = 0; e < 4; ++e) part.at[e] = MY(score)[i * 4 + e];
        parts[i * THREADS + TID] = part;
      }
    }
    BARRIER;
    EACH_THREAD {
      if (ONE_BUFFER && !VALUES_IN_KEYS) STAGE_VALUES(start)
      UNROLL for (int i = 0; i < ROW_TILES * SCORE_TILES; ++i) {
        UNROLL for (int e = 0; e < 4; ++e) MY(score)[i * 4 + e] = 0;
        UNROLL for (int warp = 0; warp < COLUMN_WARPS; ++warp) {
          const Four part = parts[i * THREADS + warp * 32 + TID % 32];
          UNROLL for (int e = 0; e < 4; ++e) MY(score)[i * 4 + e] += part.at[e];
        }
      }
    }
  }

  EACH_THREAD {
    UNROLL for (int i = 0; i < ROW_TILES * 2; ++i) {
      const int base = i / 2 * SCORE_TILES * 4 + i % 2 * 2;  // of the row's scores
      if (start < MY(low)[i] || start + KEYS > MY(high)[i]) {
        UNROLL for (int s = 0; s < SCORE_TILES * 2; ++s) {
          const int token = start + s / 2 * 8 + PAIR_COLUMN + s % 2;
          const bool is_seen = token >= MY(low)[i] && token < MY(high)[i];
          MY(score)[base + s / 2 * 4 + s % 2] = is_seen ? MY(score)[base + s / 2 * 4 + s % 2] : LOWEST;
        }
      }
      MY(top)[i] = LOWEST;
      UNROLL for (int s = 0; s < SCORE_TILES * 2; ++s) {
        MY(top)[i] = MAX(MY(top)[i], MY(score)[base + s / 2 * 4 + s % 2]);
      }
    }
  }
  EACH_THREAD {
    UNROLL for (int i = 0; i < ROW_TILES * 2; ++i) {
      MY(shrink)[i] = MAX(MY(top)[i], FROM_XOR(top, i, LANES_OF_ROW_1));
    }
  }
  EACH_THREAD {
    UNROLL for (int i = 0; i < ROW_TILES * 2; ++i) {
      MY(top)[i] = MAX(MY(shrink)[i], FROM_XOR(shrink, i, LANES_OF_ROW_2));
    }
  }
  EACH_THREAD {
    bool has_grown = false;
    UNROLL for (int i = 0; i < ROW_TILES * 2; ++i) {
      // Masked scores are LOWEST; times SCALE they are another low number, and a row that has seen nothing has no peak.
      const float high_score = MAX(MY(peak)[i], MY(top)[i] <= LOWEST ? LOWEST : MY(top)[i] * SCALE);
      const float from = high_score <= LOWEST ? 0 : high_score;
      MY(shrink)[i] = EXP2(MY(peak)[i] - high_score);
      has_grown = has_grown || MY(peak)[i] != high_score;
      MY(peak)[i] = high_score;
      MY(mass)[i] *= MY(shrink)[i];
      const int base = i / 2 * SCORE_TILES * 4 + i % 2 * 2;
      UNROLL for (int s = 0; s < SCORE_TILES * 2; ++s) {
        const float weight_of_token = EXP2(MY(score)[base + s / 2 * 4 + s % 2] * SCALE - from);
        MY(score)[base + s / 2 * 4 + s % 2] = weight_of_token;
        MY(mass)[i] += weight_of_token;
      }
    }
    if (ANY(has_grown)) {
      UNROLL for (int i = 0; i < ROW_TILES * 2; ++i) {
        UNROLL for (int n = 0; n < SUM_TILES; ++n) {
          MY(sum)[(i / 2 * SUM_TILES + n) * 4 + i % 2 * 2] *= MY(shrink)[i];
          MY(sum)[(i / 2 * SUM_TILES + n) * 4 + i % 2 * 2 + 1] *= MY(shrink)[i];
        }
      }
    }
  }
  if (!VALUES_IN_KEYS) {
    COPIES_DONE;
    BARRIER;
  }
  EACH_THREAD {
    if (!ONE_BUFFER && start + KEYS < end) STAGE_KEYS(start + KEYS)
  }
  UNROLL for (int step = 0; step < KEYS / 16; ++step) {
    EACH_THREAD {
      UNROLL for (int m = 0; m < ROW_TILES; ++m) {
        UNROLL for (int p = 0; p < 4; ++p) {
          const int pair = (m * SCORE_TILES + step * 2 + p / 2) * 4 + p % 2 * 2;
          MY(weight)[m * 4 + p] = MAKE_PAIR(MY(score)[pair], MY(score)[pair + 1]);
        }
      }
    }
    UNROLL for (int n = 0; n < SUM_TILES; n += 2) {
      EACH_THREAD {
        const int at = VALUE_TILE + step * 16 * VALUE_PITCH + VALUE_COLUMN + n * 8;
        LOAD_RIGHT_BY_COLUMN(right, workspace + at, VALUE_PITCH);
      }
      UNROLL for (int m = 0; m < ROW_TILES; ++m) {
        MULTIPLY(sum, (m * SUM_TILES + n) * 4, weight, m * 4, right, 0);
        MULTIPLY(sum, (m * SUM_TILES + n + 1) * 4, weight, m * 4, right, 2);
      }
    }
  }
}

EACH_THREAD {
  UNROLL for (int i = 0; i < ROW_TILES * 2; ++i) {
    MY(shrink)[i] = MY(mass)[i] + FROM_XOR(mass, i, LANES_OF_ROW_1);
  }
}
EACH_THREAD {
  UNROLL for (int i = 0; i < ROW_TILES * 2; ++i) {
    const float total = MY(shrink)[i] + FROM_XOR(shrink, i, LANES_OF_ROW_2);
    const int r = ROW_OF(i);
    if (r < TILE_QUERIES * HEADS && HEAD_OF(r) < GROUP && QUERY_OF(r) >= 0) {
      const INDEX partial = INDEX(GROUP_X * TILE_QUERIES + r / HEADS) * num_heads + kv_head * GROUP + HEAD_OF(r);
      UNROLL for (int n = 0; n < SUM_TILES; ++n) {
        Pack<float, 2> pair;
        pair.at[0] = MY(sum)[(i / 2 * SUM_TILES + n) * 4 + i % 2 * 2];
        pair.at[1] = MY(sum)[(i / 2 * SUM_TILES + n) * 4 + i % 2 * 2 + 1];
        *(DEVICE Pack<float, 2>*)(tile_outs + partial * VALUE_DIM + VALUE_COLUMN + n * 8 + PAIR_COLUMN) = pair;
      }
      if (COLUMN_WARP == 0 && PAIR_COLUMN == 0) {
        tile_stats[2 * partial] = MY(peak)[i];
        tile_stats[2 * partial + 1] = total;
      }
    }
  }
}
