// Partial softmax of queries over slots that all of them read: scores to weights, one query and head a group.
//   scores, weights (kv_heads, m, length), length a multiple of VECTOR; stats (kv_heads, m, 2): base-2 peak, mass
typedef Pack<T, VECTOR> Loaded;
const int length = scores_shape[2];
const INDEX row = INDEX(GROUP_Y) * scores_shape[1] + GROUP_X;
const INDEX start = row * length;
SHARED(float, parts, THREADS);
PRIVATE(float, peak, 1);

EACH_THREAD {
  float high = LOWEST;
  for (int i = TID * VECTOR; i < length; i += THREADS * VECTOR) {
    const Loaded some = LOAD(scores, start + i);
    UNROLL for (int j = 0; j < VECTOR; ++j) high = MAX(high, float(some.at[j]));
  }
  parts[TID] = high;
}
BARRIER;
EACH_THREAD {
  float high = LOWEST;
  for (int t = 0; t < THREADS; ++t) high = MAX(high, parts[t]);
  MY(peak)[0] = high * SCALE + MARGIN;
}
BARRIER;
EACH_THREAD {
  float mass = 0;
  for (int i = TID * VECTOR; i < length; i += THREADS * VECTOR) {
    const Loaded some = LOAD(scores, start + i);
    Loaded result;
    UNROLL for (int j = 0; j < VECTOR; ++j) {
      const float weight = EXP2(float(some.at[j]) * SCALE - MY(peak)[0]);
      mass += weight;
      result.at[j] = T(weight);
    }
    STORE(weights, start + i) = result;
  }
  parts[TID] = mass;
}
BARRIER;
EACH_THREAD {
  if (TID == 0) {
    float mass = 0;
    for (int t = 0; t < THREADS; ++t) mass += parts[t];
    stats[2 * row] = MY(peak)[0];
    stats[2 * row + 1] = mass;
  }
}
