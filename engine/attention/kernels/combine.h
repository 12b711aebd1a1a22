// Decode attention, pass 2: sums a row's partials (softmaxes over a part of its tokens) for one head.
//   split_outs, split_stats: the splits' partials, see split.h
//   shared_outs (kv_heads, m, GROUP, DIM); shared_stats (kv_heads, m, GROUP, 2): the shared tiles' partials
//   row_partials (rows or more, PARTIAL_SHARED + k): the row's first split, the split after its last one, then
//     indices into the m shared partials, -1 for none
//   sinks (heads or more): each head's score for no token at all, read when HAS_SINKS
//   result (rows, heads, 1, DIM); next_fence: zeros
const int row = GROUP_X;
const int head = GROUP_Y;
const int num_heads = split_outs_shape[1];
const int num_columns = row_partials_shape[1];
const int first_split = row_partials[row * num_columns + PARTIAL_FIRST_SPLIT];
const int end_split = row_partials[row * num_columns + PARTIAL_END_SPLIT];
const int num_splits = end_split - first_split;
const int num_partials = num_splits + num_columns - PARTIAL_SHARED;
const INDEX shared_head = INDEX(head / GROUP) * shared_outs_shape[1];
const float sink = HAS_SINKS ? float(sinks[head]) * 1.44269504f : LOWEST;

// The row's partial p is a split's where p < num_splits, else a shared tile's; none where SHARED_INDEX is -1.
// SPLIT_PARTIAL and SHARED_PARTIAL: the partial's index in split_stats and in shared_stats.
#define SPLIT_PARTIAL(p) (INDEX(first_split + (p)) * num_heads + head)
#define SHARED_INDEX(p) row_partials[row * num_columns + PARTIAL_SHARED + (p) - num_splits]
#define SHARED_PARTIAL(index) ((shared_head + (index)) * GROUP + head % GROUP)
constexpr int COLUMNS = DIM / 4;  // a thread takes four elements of every SLICES-th partial
constexpr int SLICES = THREADS / COLUMNS;
SHARED(float, peaks, THREADS);
SHARED(float, masses, THREADS);
SHARED(float, sums, THREADS * 4);

EACH_THREAD {
  float peak = sink;
  for (int p = TID; p < num_partials; p += THREADS) {
    if (p < num_splits) {
      peak = MAX(peak, split_stats[2 * SPLIT_PARTIAL(p)]);
    } else if (SHARED_INDEX(p) >= 0) {
      peak = MAX(peak, shared_stats[2 * SHARED_PARTIAL(SHARED_INDEX(p))]);
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
      const Pack<float, 4> out = *(const DEVICE Pack<float, 4>*)(split_outs + partial * DIM + at);
      UNROLL for (int i = 0; i < 4; ++i) sum[i] += share * out.at[i];
    } else if (SHARED_INDEX(p) >= 0) {
      const INDEX partial = SHARED_PARTIAL(SHARED_INDEX(p));
      const float share = EXP2(shared_stats[2 * partial] - peak);
      mass += share * shared_stats[2 * partial + 1];
      UNROLL for (int i = 0; i < 4; ++i) sum[i] += share * float(shared_outs[partial * DIM + at + i]);
    }
  }
  masses[TID] = mass;
  UNROLL for (int i = 0; i < 4; ++i) sums[TID * 4 + i] = sum[i];
}
BARRIER;
EACH_THREAD {
  float mass = 0;
  for (int s = 0; s < SLICES; ++s) mass += masses[s * COLUMNS];
  for (int d = TID; d < DIM; d += THREADS) {
    float sum = 0;
    for (int s = 0; s < SLICES; ++s) sum += sums[s * DIM + d];
    // Only a row that pads the batch has no mass at all; a mass of NaN must show.
    result[(INDEX(row) * num_heads + head) * DIM + d] = T(mass == 0.0f ? 0.0f : sum / mass);
  }
  if (row == 0 && head == 0 && TID < MIN_KERNEL_ELEMENTS) next_fence[TID] = 0;
}
