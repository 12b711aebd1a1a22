// Decode attention, pass 2: joins the partial softmaxes of one row and head; those of pass 1, and those of
// slots that several rows share (extra, in the order of KV heads).
//   outs, stats: see pass 1; extra (kv_heads, m, GROUP, DIM); extra_stats (kv_heads, m, GROUP, 2)
//   ranges (rows, 2 + k): the row's first item, its end, then its parts of extra, -1 for none
//   sinks (heads or more): the score that a head gives to nothing, read when HAS_SINKS
//   result (rows, heads, 1, DIM); done: zeros, to be waited for
const int row = GROUP_X;
const int head = GROUP_Y;
const int num_heads = outs_shape[1];
const int num_ranges = ranges_shape[1];
const int begin = ranges[row * num_ranges];
const int end = ranges[row * num_ranges + 1];
const int num_own = end - begin;
const int num_parts = num_own + num_ranges - 2;
const INDEX extra_head = INDEX(head / GROUP) * extra_shape[1];
const float sink = HAS_SINKS ? float(sinks[head]) * 1.44269504f : LOWEST;


// Part p of the row: its place in stats, or in extra_stats, -1 for none.
#define OWN_PART(p) (INDEX(begin + (p)) * num_heads + head)
#define EXTRA_PICK(p) ranges[row * num_ranges + 2 + (p) - num_own]
#define EXTRA_PART(pick) ((extra_head + (pick)) * GROUP + head % GROUP)
constexpr int COLUMNS = DIM / 4;  // a thread takes four elements of every SLICES-th part
constexpr int SLICES = THREADS / COLUMNS;
SHARED(float, peaks, THREADS);
SHARED(float, masses, THREADS);
SHARED(float, sums, THREADS * 4);

EACH_THREAD {
  float peak = sink;
  for (int p = TID; p < num_parts; p += THREADS) {
    if (p < num_own) {
      peak = MAX(peak, stats[2 * OWN_PART(p)]);
    } else if (EXTRA_PICK(p) >= 0) {
      peak = MAX(peak, extra_stats[2 * EXTRA_PART(EXTRA_PICK(p))]);
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
  for (int p = slice; p < num_parts && slice < SLICES; p += SLICES) {
    if (p < num_own) {
      const INDEX part = OWN_PART(p);
      const float share = EXP2(stats[2 * part] - peak);
      mass += share * stats[2 * part + 1];
      const Pack<float, 4> out = *(const DEVICE Pack<float, 4>*)(outs + part * DIM + at);
      UNROLL for (int i = 0; i < 4; ++i) sum[i] += share * out.at[i];
    } else if (EXTRA_PICK(p) >= 0) {
      const INDEX part = EXTRA_PART(EXTRA_PICK(p));
      const float share = EXP2(extra_stats[2 * part] - peak);
      mass += share * extra_stats[2 * part + 1];
      UNROLL for (int i = 0; i < 4; ++i) sum[i] += share * float(extra[part * DIM + at + i]);
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
    // No mass at all has a row that pads the batch; a mass of NaN must show.
    result[(INDEX(row) * num_heads + head) * DIM + d] = T(mass == 0.0f ? 0.0f : sum / mass);
  }
  if (row == 0 && head == 0 && TID < 8) done[TID] = 0;
}
