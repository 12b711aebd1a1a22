// Decode attention, before pass 1: what a model does to the heads of a token's queries and keys before it attends. It
// normalises each head, where HAS_NORMS, and rotates it by its row's position (RoPE). One head a thread group.
//   queries (rows, heads, 1, DIM); new_keys, new_values (rows, kv_heads, 1, DIM): also with gaps, as parts of one matrix
//   query_weight, key_weight (DIM): factors of normalised elements; positions (rows or more)
//   periods (ROTATED / 2): of each pair, in tokens / 2 pi, where HAS_PERIODS; numbers: see NUMBER_...
//   rotated_queries, rotated_keys, copied_values: of the same shapes, without gaps
// A pair is two of the first ROTATED elements: neighbours where TRADITIONAL, else ROTATED / 2 apart.
const int row = GROUP_X;
const int num_heads = queries_shape[1];
const int num_kv_heads = new_keys_shape[1];
const bool is_query = GROUP_Y < num_heads;
const bool is_value = GROUP_Y >= num_heads + num_kv_heads;
const int head = is_query ? GROUP_Y : (GROUP_Y - num_heads) % num_kv_heads;
const DEVICE T* from = is_query ? queries + row * INDEX(queries_strides[0]) + head * INDEX(queries_strides[1])
    : is_value ? new_values + row * INDEX(new_values_strides[0]) + head * INDEX(new_values_strides[1])
               : new_keys + row * INDEX(new_keys_strides[0]) + head * INDEX(new_keys_strides[1]);
const INDEX step = is_query ? queries_strides[3] : is_value ? new_values_strides[3] : new_keys_strides[3];
const INDEX at = (INDEX(row) * (is_query ? num_heads : num_kv_heads) + head) * DIM;
DEVICE T* to = (is_query ? rotated_queries : is_value ? copied_values : rotated_keys) + at;
constexpr int PAIRS = ROTATED / 2;
SHARED(float, elements, DIM);
SHARED(float, partials, THREADS);

EACH_THREAD {
  float squares = 0;
  for (int d = TID; d < DIM; d += THREADS) {
    const float x = float(from[d * step]);
    elements[d] = x;
    squares += x * x;
  }
  partials[TID] = squares;
}
BARRIER;
if (HAS_NORMS && !is_value) {
  for (int apart = THREADS / 2; apart > 0; apart /= 2) {
    EACH_THREAD {
      if (TID < apart) partials[TID] = partials[TID] + partials[TID + apart];
    }
    BARRIER;
  }
  EACH_THREAD {
    const float mean = partials[0] / float(DIM) + numbers[is_query ? NUMBER_QUERY_EPS : NUMBER_KEY_EPS];
    const float factor = INVERSE_ROOT(mean);
    for (int d = TID; d < DIM; d += THREADS) {
      const float weight = float(is_query ? query_weight[d] : key_weight[d]);
      elements[d] = float(T(float(T(elements[d] * factor)) * weight));  // rounded as MLX's norm rounds
    }
  }
  BARRIER;
}
EACH_THREAD {
  const float turns = float(positions[row]) * numbers[NUMBER_SCALE];
  for (int d = TID; d < DIM; d += THREADS) {
    float x = elements[d];
    if (!is_value && d < ROTATED) {
      const int pair = TRADITIONAL ? d / 2 : d % PAIRS;
      const bool is_second = TRADITIONAL ? d % 2 : d >= PAIRS;
      const int partner = TRADITIONAL ? d ^ 1 : is_second ? d - PAIRS : d + PAIRS;
      const float frequency =
          HAS_PERIODS ? 1.0f / periods[pair] : POWER_OF_2(-(float(pair) / float(PAIRS)) * numbers[NUMBER_LOG2_BASE]);
      const float angle = turns * frequency;
      const float other = is_second ? elements[partner] : -elements[partner];
      x = x * COS(angle) + other * SIN(angle);
    }
    to[d] = T(x);
  }
}
