// The gated delta rule for one token a row: decays the head's state, corrects it for the token's key, reads it.
//   queries, keys (rows, key_heads, KEY_DIM); values, delta_out (rows, heads, VALUE_DIM); betas (rows, heads)
//   decays (rows, heads), or (rows, heads, KEY_DIM) where BY_ELEMENT
//   state, next_state (rows, heads, VALUE_DIM, KEY_DIM): a line for each element of the values
// A thread group takes a part of one head's lines, a subgroup of LANES threads LINES of them. The state is read once:
// what the query reads after the correction is what it reads before it, and the correction times key x query.
const int num_heads = values_shape[1];
const int num_key_heads = keys_shape[1];
const int row = GROUP_Y / num_heads;
const int key_head = row * num_key_heads + GROUP_Y % num_heads / (num_heads / num_key_heads);
PRIVATE(float, key, WIDTH);
PRIVATE(float, query, WIDTH);
PRIVATE(float, line, LINES * WIDTH);
PRIVATE(float, sums, 2 * LINES + 1);  // of each line: by the key, by the query; last, key x query
PRIVATE(float, exchange, 2 * LINES + 1);

EACH_THREAD {
  const int lane = TID % LANES;
  MY(sums)[2 * LINES] = 0;
  UNROLL for (int i = 0; i < WIDTH; ++i) {
    const int at = key_head * KEY_DIM + PLACE(lane, i);
    MY(key)[i] = float(keys[at]);
    MY(query)[i] = float(queries[at]);
    MY(sums)[2 * LINES] += MY(key)[i] * MY(query)[i];
  }
  UNROLL for (int l = 0; l < LINES; ++l) {
    const int element = (GROUP_X * SUBGROUPS + TID / LANES) * LINES + l;
    MY(sums)[2 * l] = MY(sums)[2 * l + 1] = 0;
    if (element < VALUE_DIM) {
      const INDEX from = (INDEX(GROUP_Y) * VALUE_DIM + element) * KEY_DIM;
      UNROLL for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        const Pack<float, VECTOR> piece =
            *(const DEVICE Pack<float, VECTOR>*)(state + from + PLACE(lane, chunk * VECTOR));
        UNROLL for (int e = 0; e < VECTOR; ++e) {
          const int i = chunk * VECTOR + e;
          const float decay = decays[BY_ELEMENT ? GROUP_Y * KEY_DIM + PLACE(lane, i) : GROUP_Y];
          const float x = piece.at[e] * decay;
          MY(line)[l * WIDTH + i] = x;
          MY(sums)[2 * l] += x * MY(key)[i];
          MY(sums)[2 * l + 1] += x * MY(query)[i];
        }
      }
    }
  }
}
UNROLL for (int stage = 1; stage <= LOG2(LANES); ++stage) {
  EACH_THREAD {
    UNROLL for (int s = 0; s < 2 * LINES + 1; ++s) MY(exchange)[s] = FROM_XOR(sums, s, LANES >> stage);
  }
  EACH_THREAD {
    UNROLL for (int s = 0; s < 2 * LINES + 1; ++s) MY(sums)[s] += MY(exchange)[s];
  }
}
EACH_THREAD {
  const int lane = TID % LANES;
  UNROLL for (int l = 0; l < LINES; ++l) {
    const int element = (GROUP_X * SUBGROUPS + TID / LANES) * LINES + l;
    if (element < VALUE_DIM) {
      const int place = GROUP_Y * VALUE_DIM + element;
      const float update = (float(values[place]) - MY(sums)[2 * l]) * betas[GROUP_Y];
      const INDEX to = INDEX(place) * KEY_DIM;
      UNROLL for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        Pack<float, VECTOR> piece;
        UNROLL for (int e = 0; e < VECTOR; ++e) {
          const int i = chunk * VECTOR + e;
          piece.at[e] = MY(line)[l * WIDTH + i] + update * MY(key)[i];
        }
        *(DEVICE Pack<float, VECTOR>*)(next_state + to + PLACE(lane, chunk * VECTOR)) = piece;
      }
      if (lane == 0) delta_out[place] = T(MY(sums)[2 * l + 1] + update * MY(sums)[2 * LINES]);
    }
  }
}
