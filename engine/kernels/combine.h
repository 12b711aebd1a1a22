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
const INDEX extra_head = INDEX(head / GROUP) * extra_shape[1];
const float sink = HAS_SINKS ? float(sinks[head]) * 1.44269504f : LOWEST;

EACH_THREAD {
  float peak = sink;
  for (int p = begin; p < end; ++p) peak = MAX(peak, stats[2 * (INDEX(p) * num_heads + head)]);
  for (int r = 2; r < num_ranges; ++r) {
    const int pick = ranges[row * num_ranges + r];
    if (pick >= 0) peak = MAX(peak, extra_stats[2 * ((extra_head + pick) * GROUP + head % GROUP)]);
  }
  for (int d = TID; d < DIM; d += THREADS) {
    float mass = HAS_SINKS ? EXP2(sink - peak) : 0.0f;
    float sum = 0;
    for (int p = begin; p < end; ++p) {
      const INDEX part = INDEX(p) * num_heads + head;
      const float share = EXP2(stats[2 * part] - peak);
      mass += share * stats[2 * part + 1];
      sum += share * outs[part * DIM + d];
    }
    for (int r = 2; r < num_ranges; ++r) {
      const int pick = ranges[row * num_ranges + r];
      if (pick >= 0) {
        const INDEX part = (extra_head + pick) * GROUP + head % GROUP;
        const float share = EXP2(extra_stats[2 * part] - peak);
        mass += share * extra_stats[2 * part + 1];
        sum += share * float(extra[part * DIM + d]);
      }
    }
    result[(INDEX(row) * num_heads + head) * DIM + d] = T(sum / mass);
  }
  if (row == 0 && head == 0 && TID < 8) done[TID] = 0;
}
