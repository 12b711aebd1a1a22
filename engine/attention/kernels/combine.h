// Decode attention, pass 2: sums a query's partials (softmaxes over a part of its tokens) for one head.
//   queries (rows, heads, length, DIM): not read, only for its shape; query number n is row n / length
//   split_outs, split_stats: the splits' partials, see split.h, or tiles.h; tile_outs,
//     tile_stats: the tiles' partials, see tiles.h
//   query_partials (queries or more, PARTIAL_TILES + k): the query's first split, the split after its last one, then
//     numbers of the tiles' partials, -1 for none
//   sinks (heads or more): each head's score for no token at all, read when HAS_SINKS
//   result (rows, heads, length, VALUE_DIM); next_fence: zeros
const int query = GROUP_X;
const int head = GROUP_Y;
const int num_heads = queries_shape[1];
const int length = queries_shape[2];
const int num_columns = query_partials_shape[1];
const int first_split = query_partials[query * num_columns + PARTIAL_FIRST_SPLIT];
const int end_split = query_partials[query * num_columns + PARTIAL_END_SPLIT];
const int num_splits = end_split - first_split;
const int num_partials = num_splits + num_columns - PARTIAL_TILES;
const float sink = HAS_SINKS ? float(sinks[head]) * 1.44269504f : LOWEST;

// The query's partial p is a split's where p < num_splits, else a tile's; none where TILE_INDEX is -1.
#define SPLIT_PARTIAL(p) (INDEX(first_split + (p)) * num_heads + head)
#define TILE_INDEX(p) query_partials[query * num_columns + PARTIAL_TILES + (p) - num_splits]
#define TILE_PARTIAL(p) (INDEX(TILE_INDEX(p)) * num_heads + head)
constexpr int COLUMNS = VALUE_DIM / 4;  // a thread takes four elements of every SLICES-th partial
constexpr int SLICES = THREADS / COLUMNS;
SHARED(float, peaks, THREADS);
SHARED(float, masses, THREADS);
SHARED(float, sums, THREADS * 4);

EACH_THREAD {
  float peak = sink;
  for (int p = TID; p < num_partials; p += THREADS) {
    if (p < num_splits) {
      peak = MAX(peak, split_stats[2 * SPLIT_PARTIAL(p)]);
    } else if (TILE_INDEX(p) >= 0) {
      peak = MAX(peak, tile_stats[2 * TILE_PARTIAL(p)]);
    }
  }
  peaks[TID] = peak;
}
BARRIER;
EACH_THREAD {
  const int slice = TID / COLUMNS;
  const int at = TID % COLUMNS * 4;
  float peak = sink;
  for (int t = 0; t < THREADS; ++t) peak = MAX(peak, peaks[t]);
  float mass = HAS_SINKS && slice == 0 ? EXP2(sink - peak) : 0.0f;
  float sum[4] = {0, 0, 0, 0};
  for (int p = slice; p < num_partials && slice < SLICES; p += SLICES) {
    if (p < num_splits) {
      const INDEX partial = SPLIT_PARTIAL(p);
      const float share = EXP2(split_stats[2 * partial] - peak);
      mass += share * split_stats[2 * partial + 1];
      const Pack<float, 4> out = *(const DEVICE Pack<float, 4>*)(split_outs + partial * VALUE_DIM + at);
      UNROLL for (int i = 0; i < 4; ++i) sum[i] += share * out.at[i];
    } else if (TILE_INDEX(p) >= 0) {
      const INDEX partial = TILE_PARTIAL(p);
      const float share = EXP2(tile_stats[2 * partial] - peak);
      mass += share * tile_stats[2 * partial + 1];
      const Pack<float, 4> out = *(const DEVICE Pack<float, 4>*)(tile_outs + partial * VALUE_DIM + at);
      UNROLL for (int i = 0; i < 4; ++i) sum[i] += share * out.at[i];
    }
  }
  masses[TID] = mass;
  UNROLL for (int i = 0; i < 4; ++i) sums[TID * 4 + i] = sum[i];
}
BARRIER;
EACH_THREAD {
  float mass = 0;
  for (int s = 0; s < SLICES; ++s) mass += masses[s * COLUMNS];
  for (int d = TID; d < VALUE_DIM; d += THREADS) {
    float sum = 0;
    for (int s = 0; s < SLICES; ++s) sum += sums[s * VALUE_DIM + d];
    // Only a query that pads the batch has no mass at all; a mass of NaN must show.
    result[((INDEX(query) / length * num_heads + head) * length + query % length) * VALUE_DIM + d] = T(mass == 0.0f ? 0.0f : sum / mass);
  }
  if (query == 0 && head == 0 && TID < MIN_KERNEL_ELEMENTS) next_fence[TID] = 0;
}
