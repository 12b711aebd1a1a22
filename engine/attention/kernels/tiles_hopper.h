// As tiles.h, on Hopper: matrix units that run asynchronously (wgmma) and read their factors from shared memory.
// FlashAttention-3 (Shah et al. 2024) over a block table, with copies by threads as in FlashInfer (Ye et al. 2025).
// Arguments, tiles and partials are those of tiles.h. CUDA only.
//
// A thread group is three warp groups of 128 threads. The first, the PRODUCER, copies keys and values of KEYS tokens an
// iteration into one of STAGES stages. Each of the others, the CONSUMERS, owns a half of the tile's ROWS 128 stacked
// rows. In numbers of DIM 128: queries 32 KB, then 2 stages of 32 KB of keys and as much of values.
//
// BARRIERS. Of each stage, for keys and for values: `full` ends a phase when the producer's 128 threads have copied,
// `empty` when the 8 warps of consumers have read.
//
// SHARED MEMORY. A head is cut into planes of 64 elements: rows of 128 bytes, one a token (or query), KEYS (or ROWS) of
// them a plane. In row r the 16-byte chunk c lies at place c ^ r % 8, as the matrix units' swizzle of 128 bytes has it.
//
// A CONSUMER'S THREAD holds, of a product of 64 rows, elements of rows `warp * 16 + lane / 4` (r = 0) and 8 further
// (r = 1): of every 8 columns two neighbours of each row. Element i is at column i / 4 * 8 + lane % 4 * 2 + i % 2 of row
// r = i / 2 % 2. Eight elements of 16 columns, in pairs, are what the left factor of the next product takes.
//
// ORDER. While the matrix units compute the sums of one iteration, the threads turn the scores of the next into
// weights. The consumers take turns: one's products are computed while the other's threads are busy with weights.
//
//     consumer 1   scores 1, sums 0 |      weights 1       | scores 2, sums 1 |      weights 2
//     consumer 2      weights 0     |   scores 1, sums 0   |     weights 1    |   scores 2, sums 1
constexpr int ROWS = 128;
constexpr int TILE_QUERIES = ROWS / GROUP;
constexpr int HEAD_CHUNKS = DIM / 8;
constexpr int STAGE_BYTES = KEYS * DIM * 2;
constexpr int UNIT_TOKENS = 16;  // that a warp of the producer copies at a time; all of one block
constexpr int UNITS = KEYS / (4 * UNIT_TOKENS);
constexpr int COPIED = 32 / HEAD_CHUNKS;  // tokens that a warp copies at once
extern __shared__ unsigned char workspace_bytes[];
const uint32_t query_memory = (shared_address(workspace_bytes) + 1023) & ~1023u;
const uint32_t key_memory = query_memory + ROWS * DIM * 2;
const uint32_t value_memory = key_memory + STAGES * STAGE_BYTES;
const uint32_t full_keys = value_memory + STAGES * STAGE_BYTES, full_values = full_keys + 8 * STAGES;
const uint32_t empty_keys = full_values + 8 * STAGES, empty_values = empty_keys + 8 * STAGES;
const uint32_t unread = empty_values + 8 * STAGES;
int* const extent = (int*)(workspace_bytes + (unread + 16 - shared_address(workspace_bytes)));

const int* tile = tiles + INDEX(GROUP_X) * (TILE_COLUMNS + 2 * TILE_QUERIES);
const int kv_head = GROUP_Y;
const int first = tile[TILE_FIRST], end = tile[TILE_END];
if (first >= end) END_GROUP;  // an empty tile pads the table
const int thread = TID % 128, warp = thread / 32, lane = TID % 32;

// extent: tokens that any query sees, from 0 to 1; tokens that every query sees, from 2 to 3
if (TID < 4) extent[TID] = TID == 0 || TID == 3 ? end : first;
if (TID == 0) {
  for (int stage = 0; stage < STAGES; ++stage) {
    init_barrier(full_keys + 8 * stage, 128);
    init_barrier(full_values + 8 * stage, 128);
    init_barrier(empty_keys + 8 * stage, 8);
    init_barrier(empty_values + 8 * stage, 8);
  }
}
BARRIER;
if (TID < TILE_QUERIES && tile[TILE_COLUMNS + 2 * TID] >= 0) {
  const int limit = tile[TILE_COLUMNS + 2 * TID + 1];
  const int high = limit < end ? limit : end;
  const int low = WINDOW > 0 && limit - WINDOW > first ? limit - WINDOW : first;
  if (low < high) {
    atomicMin(&extent[0], low);
    atomicMax(&extent[1], high);
  }
  atomicMax(&extent[2], low);
  atomicMin(&extent[3], high);
}
BARRIER;
const int start = extent[0] / BLOCK * BLOCK;
const int num_iterations = (extent[1] - start + KEYS - 1) / KEYS;

if (TID < 128) {
  leave_registers<40>();
  const int* const blocks = block_table + INDEX(tile[TILE_ROW]) * block_table_shape[1];
  const INDEX pool_head = INDEX(kv_head) * keys_shape[1];
  const int chunk = lane % HEAD_CHUNKS, token = lane / HEAD_CHUNKS;
  const uint32_t plane = chunk / 8 * KEYS * 128;
  INDEX slot[UNITS];  // of each unit's block the first

#define INSIDE(t) ((t) < first ? first : (t) < end ? (t) : end - 1)
#define FIND_BLOCKS(from)                                                          \
  UNROLL for (int u = 0; u < UNITS; ++u) {                                         \
    const int t = INSIDE((from) + (u * 4 + warp) * UNIT_TOKENS);                   \
    slot[u] = pool_head + INDEX(blocks[t / BLOCK]) * BLOCK;                        \
  }
#define PLACE_OF(r) ((r) * 128 + (chunk % 8 ^ (token + (r)) % 8) * 16)
// Copies a stage. Outside the span it copies the first or the last token again: other slots may hold NaN, which a
// weight of 0 does not hide.
#define COPY(pool, stage, from)                                                                           \
  UNROLL for (int u = 0; u < UNITS; ++u) {                                                                \
    const int unit = (u * 4 + warp) * UNIT_TOKENS, t = (from) + unit;                                     \
    const uint32_t to = (stage) + plane + (unit + token) * 128;                                           \
    if ((from) >= first && (from) + KEYS <= end) {                                                        \
      const T* const row = pool + (slot[u] + t % BLOCK + token) * DIM + chunk * 8;                        \
      UNROLL for (int r = 0; r < UNIT_TOKENS; r += COPIED) copy_async(to + PLACE_OF(r), row + r * DIM);   \
    } else {                                                                                              \
      KEEP_ROLLED for (int r = 0; r < UNIT_TOKENS; r += COPIED) {                                         \
        copy_async(to + PLACE_OF(r), pool + (slot[u] + INSIDE(t + token + r) % BLOCK) * DIM + chunk * 8); \
      }                                                                                                   \
    }                                                                                                     \
  }

  FIND_BLOCKS(start)
  int stage = 0, parity = 1;
  for (int step = 0; step < num_iterations; ++step) {
    const int from = start + step * KEYS;
    wait_for(empty_keys + 8 * stage, parity);
    COPY(keys, key_memory + stage * STAGE_BYTES, from)
    arrive_after_copies(full_keys + 8 * stage);
    wait_for(empty_values + 8 * stage, parity);
    COPY(values, value_memory + stage * STAGE_BYTES, from)
    arrive_after_copies(full_values + 8 * stage);
    FIND_BLOCKS(from + KEYS)
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
  COPIES_DONE;
} else {
  take_registers<232>();
  const int half = TID / 128 - 1;
  const int num_heads = queries_shape[1], length = queries_shape[2];
  const uint32_t my_queries = query_memory + half * 64 * 128;
  for (int i = thread; i < 64 * HEAD_CHUNKS; i += 128) {
    const int r = i / HEAD_CHUNKS, chunk = i % HEAD_CHUNKS, row = half * 64 + r;
    const int query = row / GROUP < TILE_QUERIES ? tile[TILE_COLUMNS + 2 * (row / GROUP)] : -1;
    uint4 elements = {0, 0, 0, 0};
    if (query >= 0) {
      const INDEX head = INDEX(query / length) * num_heads + kv_head * GROUP + row % GROUP;
      elements = *(const uint4*)(queries + (head * length + query % length) * DIM + chunk * 8);
    }
    store(my_queries + chunk / 8 * ROWS * 128 + r * 128 + (chunk % 8 ^ r % 8) * 16, elements);
  }
  int low[2], high[2];
  UNROLL for (int r = 0; r < 2; ++r) {
    const int place = (half * 64 + warp * 16 + lane / 4 + 8 * r) / GROUP;
    const int limit = place < TILE_QUERIES ? tile[TILE_COLUMNS + 2 * place + 1] : end;
    high[r] = limit < end ? limit : end;
    low[r] = WINDOW > 0 && limit - WINDOW > first ? limit - WINDOW : first;
  }
  const int seen_first = extent[2], seen_end = extent[3];
  show_shared_memory();
  meet(3 + half, 128);

  float score[KEYS / 2], sum[DIM / 2], peak[2] = {NO_SCORE, NO_SCORE}, mass[2] = {0, 0}, shrink[2];
  uint32_t weight[KEYS / 16][4];
  UNROLL for (int i = 0; i < DIM / 2; ++i) sum[i] = 0;

#define MY_TURN meet(1 + half, 256)
#define OTHERS_TURN(is_last) if (!(is_last) || half == 0) signal(2 - half, 256)
#define RELEASE(barrier) if (lane == 0) arrive(barrier)
#define START_SCORES(stage)                                                             \
  {                                                                                     \
    const uint64_t left = factor(my_queries, 16);                                       \
    const uint64_t right = factor(key_memory + (stage) * STAGE_BYTES, 16);              \
    pin(score);                                                                         \
    begin_products();                                                                   \
    UNROLL for (int k = 0; k < DIM / 16; ++k) {                                         \
      multiply_scores(score, left + (k / 4 * ROWS * 128 + k % 4 * 32) / 16,             \
                      right + (k / 4 * KEYS * 128 + k % 4 * 32) / 16, k > 0);           \
    }                                                                                   \
    commit_products();                                                                  \
  }
#define START_SUMS(stage)                                                               \
  {                                                                                     \
    const uint64_t right = factor(value_memory + (stage) * STAGE_BYTES, KEYS * 128);    \
    pin(sum);                                                                           \
    begin_products();                                                                   \
    UNROLL for (int k = 0; k < KEYS / 16; ++k) {                                        \
      multiply_sums(sum, weight[k], right + k * 16 * 128 / 16, 1);                      \
    }                                                                                   \
    commit_products();                                                                  \
  }
// From scores to weights, still in `score`; shrink: factor of the sums so far. A row that has seen nothing has no peak.
#define WEIGH(from)                                                                     \
  {                                                                                     \
    if ((from) < seen_first || (from) + KEYS > seen_end) {                              \
      UNROLL for (int i = 0; i < KEYS / 2; ++i) {                                       \
        const int t = (from) + lane % 4 * 2 + i / 4 * 8 + i % 2, r = i / 2 % 2;         \
        score[i] = t >= low[r] && t < high[r] ? score[i] : NO_SCORE;                    \
      }                                                                                 \
    }                                                                                   \
    UNROLL for (int r = 0; r < 2; ++r) {                                                \
      float top = peak[r];                                                              \
      UNROLL for (int i = 2 * r; i < KEYS / 2; i += 4) top = MAX(top, MAX(score[i], score[i + 1])); \
      top = MAX(top, __shfl_xor_sync(0xffffffffu, top, 1));                             \
      top = MAX(top, __shfl_xor_sync(0xffffffffu, top, 2));                             \
      const float scaled = top == NO_SCORE ? 0.0f : top * SCALE;                        \
      shrink[r] = EXP2(peak[r] * SCALE - scaled);                                       \
      peak[r] = top;                                                                    \
      mass[r] *= shrink[r];                                                             \
      UNROLL for (int i = 2 * r; i < KEYS / 2; i += 4) {                                \
        score[i] = EXP2(score[i] * SCALE - scaled);                                     \
        score[i + 1] = EXP2(score[i + 1] * SCALE - scaled);                             \
        mass[r] += score[i] + score[i + 1];                                             \
      }                                                                                 \
    }                                                                                   \
  }
#define ROUND_WEIGHTS                                                                   \
  UNROLL for (int i = 0; i < KEYS / 4; ++i) weight[i / 4][i % 4] = MAKE_PAIR(score[2 * i], score[2 * i + 1]);

  if (half == 1 && num_iterations > 0) signal(1, 256);
  int stage = 0, parity = 0;
  if (num_iterations > 0) {
    wait_for(full_keys, 0);
    show_shared_memory();
    MY_TURN;
    START_SCORES(0)
    OTHERS_TURN(num_iterations == 1);
    wait_for_products<0>();
    pin(score);
    RELEASE(empty_keys);
    WEIGH(start)
    ROUND_WEIGHTS
  }
  for (int step = 1; step < num_iterations; ++step) {
    const int last_stage = stage, last_parity = parity;
    if (++stage == STAGES) stage = 0, parity ^= 1;
    wait_for(full_keys + 8 * stage, parity);
    show_shared_memory();
    MY_TURN;
    START_SCORES(stage)
    wait_for(full_values + 8 * last_stage, last_parity);
    show_shared_memory();
    START_SUMS(last_stage)
    OTHERS_TURN(step == num_iterations - 1);
    wait_for_products<1>();
    pin(score);
    RELEASE(empty_keys + 8 * stage);
    WEIGH(start + step * KEYS)
    // The compiler moves a wait for products up to the last access to memory. This access needs all weights; without it
    // the threads would wait for the sums before they compute the weights.
    store(unread, mass[0] + mass[1]);
    wait_for_products<0>();
    pin(sum);
    RELEASE(empty_values + 8 * last_stage);
    ROUND_WEIGHTS
    UNROLL for (int j = 0; j < DIM / 2; ++j) sum[j] *= shrink[j / 2 % 2];
  }
  if (num_iterations > 0) {
    wait_for(full_values + 8 * stage, parity);
    show_shared_memory();
    START_SUMS(stage)
    wait_for_products<0>();
    pin(sum);
  }

  UNROLL for (int r = 0; r < 2; ++r) {
    const int row = half * 64 + warp * 16 + lane / 4 + 8 * r;
    mass[r] += __shfl_xor_sync(0xffffffffu, mass[r], 1);
    mass[r] += __shfl_xor_sync(0xffffffffu, mass[r], 2);
    if (row / GROUP < TILE_QUERIES) {
      const INDEX query = INDEX(GROUP_X) * TILE_QUERIES + row / GROUP;
      const INDEX partial = query * num_heads + kv_head * GROUP + row % GROUP;
      UNROLL for (int j = 0; j < DIM / 8; ++j) {
        const float2 pair = {sum[4 * j + 2 * r], sum[4 * j + 2 * r + 1]};
        *(float2*)(tile_outs + partial * DIM + 8 * j + lane % 4 * 2) = pair;
      }
      if (lane % 4 == 0) {
        const float2 stats = {mass[r] == 0.0f ? LOWEST : peak[r] * SCALE, mass[r]};
        *(float2*)(tile_stats + 2 * partial) = stats;
      }
    }
  }
}
