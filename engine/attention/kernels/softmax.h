// Partial softmax of queries over a shared tile, from scores to weights; one query of one head a thread group.
//   scores, weights (kv_heads, m, length), length a multiple of VECTOR; m: rows * GROUP queries
//   stats (kv_heads, m, 2): peak of the scores in base 2 plus MARGIN, mass relative to it
typedef Pack<T, VECTOR> Chunk;
const int length = scores_shape[2];
const INDEX row = INDEX(GROUP_Y) * scores_shape[1] + GROUP_X;
const INDEX start = row * length;
SHARED(float, partials, THREADS);
PRIVATE(float, peak, 1);

EACH_THREAD {
  float high = LOWEST;
  for (int i = TID * VECTOR; i < length; i += THREADS * VECTOR) {
    const Chunk chunk = LOAD(scores, start + i);
    UNROLL for (int j = 0; j < VECTOR; ++j) high = MAX(high, float(chunk.at[j]));
  }
  partials[TID] = high;
}
BARRIER;
EACH_THREAD {
  float high = LOWEST;
  for (int t = 0; t < THREADS; ++t) high = MAX(high, partials[t]);
  MY(peak)[0] = high * SCALE + MARGIN;
}
BARRIER;
EACH_THREAD {
  float mass = 0;
  for (int i = TID * VECTOR; i < length; i += THREADS * VECTOR) {
    const Chunk chunk = LOAD(scores, start + i);
    Chunk result;
    UNROLL for (int j = 0; j < VECTOR; ++j) {
      const float weight = EXP2(float(chunk.at[j]) * SCALE - MY(peak)[0]);
      mass += weight;
      result.at[j] = T(weight);
    }
    STORE(weights, start + i) = result;
  }
  partials[TID] = mass;
}
BARRIER;
EACH_THREAD {
  if (TID == 0) {
    float mass = 0;
    for (int t = 0; t < THREADS; ++t) mass += partials[t];
    stats[2 * row] = MY(peak)[0];
    stats[2 * row + 1] = mass;
  }
}
