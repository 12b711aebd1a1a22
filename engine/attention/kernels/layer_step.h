// A gated delta layer's token of each row, from the layer's input projections to its output projection: convolves the
// token's channels with those of the tokens before it, normalises queries and keys, corrects and reads the head's state
// (as delta_step.h does), normalises what was read and gates it. A value head a thread group.
//   mixed, gates, write_gates, times (rows, 1, ...): the projections; parts of one array, or of several
//   conv_state (rows, TAPS - 1, channels); conv_weight (channels, TAPS, 1); conv_bias (channels)
//   log_rates, time_bias (heads); norm_weight (VALUE_DIM); numbers: see NUMBER_...
//   state (rows, heads, VALUE_DIM, KEY_DIM): a line for each element of the values
// layer_rows.h or layer_slots.h comes first: THREADS, which is GROUP_THREADS here; from_row and to_row, of the states before and after; conv_to and state_to, of the
// states after.
//   hidden (rows, 1, heads, VALUE_DIM)
// MIXED_AT, GATES_AT, BETAS_AT and TIMES_AT say where each projection begins in its array's rows. Where INTERLEAVED, the
// first two are one projection with all of a key head together, and so are the last two.
// What mlx-lm's layer keeps in the model's type is rounded to it, also within MLX's sigmoid and logarithm on CUDA.
#define ROUND(x) float(T(x))
constexpr int CHANNELS = 2 * KEY_DIM + VALUE_DIM;  // of a value head: query, key, value
constexpr int ITEMS = (CHANNELS + THREADS - 1) / THREADS;
constexpr int GATES = (VALUE_DIM + THREADS - 1) / THREADS;
constexpr int PASS_LINES = SUBGROUPS * LINES;
constexpr int PASSES = (VALUE_DIM + PASS_LINES - 1) / PASS_LINES;
constexpr int WARPS_OF_GROUP = THREADS / 32;
constexpr int STRETCH = 2 * KEY_DIM + 2 * GROUP * VALUE_DIM;  // of a key head, where INTERLEAVED
constexpr int ALL_KEYS = KEY_HEADS * KEY_DIM;
constexpr int CONV_DIM = 2 * ALL_KEYS + KEY_HEADS * GROUP * VALUE_DIM;
const int head = GROUP_X, row = GROUP_Y;
const int key_head = head / GROUP, member = head % GROUP;
const int query_at = MIXED_AT + key_head * (INTERLEAVED ? STRETCH : KEY_DIM);
const int key_at = query_at + (INTERLEAVED ? KEY_DIM : ALL_KEYS);
const int value_at =
    INTERLEAVED ? key_at + KEY_DIM + member * VALUE_DIM : MIXED_AT + 2 * ALL_KEYS + head * VALUE_DIM;
const int gate_at = INTERLEAVED ? value_at + GROUP * VALUE_DIM : GATES_AT + head * VALUE_DIM;
const int beta_at = BETAS_AT + (INTERLEAVED ? key_head * 2 * GROUP + member : head);
const int time_at = TIMES_AT + (INTERLEAVED ? key_head * 2 * GROUP + GROUP + member : head);
const INDEX mixed_row = INDEX(row) * mixed_shape[2], gates_row = INDEX(row) * gates_shape[2];
constexpr int HEADS = KEY_HEADS * GROUP;
const INDEX lines_from = (INDEX(from_row) * HEADS + head) * VALUE_DIM, lines_to = (INDEX(to_row) * HEADS + head) * VALUE_DIM;
PRIVATE(float, line, LINES * WIDTH);
PRIVATE(float, key, WIDTH);
PRIVATE(float, query, WIDTH);
PRIVATE(float, gate, GATES);
PRIVATE(float, squares, 3);  // of query, key and what is read
PRIVATE(float, moved, 3);
PRIVATE(float, scalars, 2);              // the state's decay and the rate of its correction
PRIVATE(float, sums, 2 * LINES + 1);     // of each line: by the key, by the query; last, key x query
PRIVATE(float, exchange, 2 * LINES + 1);
SHARED(float, convolved, CHANNELS);
SHARED(float, outs, VALUE_DIM);
SHARED(float, totals, 3 * WARPS_OF_GROUP);

UNROLL for (int pass = 0; pass < PASSES; ++pass) {
  EACH_THREAD {  // first, so that the state is on its way while all else is computed
    UNROLL for (int l = 0; l < LINES; ++l) {
      const int element = pass * PASS_LINES + l * SUBGROUPS + TID / LANES;
      if (VALUE_DIM % PASS_LINES == 0 || element < VALUE_DIM) {
        const INDEX from = (lines_from + element) * KEY_DIM;
        UNROLL for (int chunk = 0; chunk < CHUNKS; ++chunk) {
          const Pack<float, VECTOR> piece =
              *(const DEVICE Pack<float, VECTOR>*)(state + from + PLACE(TID % LANES, chunk * VECTOR));
          UNROLL for (int e = 0; e < VECTOR; ++e) MY(line)[l * WIDTH + chunk * VECTOR + e] = piece.at[e];
        }
      }
    }
  }
  if (pass == 0) {
    EACH_THREAD {
      UNROLL for (int i = 0; i < GATES; ++i) {
        const int d = i * THREADS + TID;
        MY(gate)[i] = d < VALUE_DIM ? float(gates[gates_row + gate_at + d]) : 0.0f;
      }
      MY(squares)[0] = MY(squares)[1] = MY(squares)[2] = 0;
      UNROLL for (int i = 0; i < ITEMS; ++i) {
        const int c = i * THREADS + TID;
        if (CHANNELS % THREADS == 0 || c < CHANNELS) {
          const bool is_query = c < KEY_DIM, is_value = c >= 2 * KEY_DIM;
          const int from = is_query ? query_at + c : is_value ? value_at + c - 2 * KEY_DIM : key_at + c - KEY_DIM;
          const int channel = is_query ? key_head * KEY_DIM + c
              : is_value               ? 2 * ALL_KEYS + head * VALUE_DIM + c - 2 * KEY_DIM
                                       : ALL_KEYS + key_head * KEY_DIM + c - KEY_DIM;
          const INDEX old = INDEX(from_row) * (TAPS - 1) * CONV_DIM + channel;
          const INDEX fresh = INDEX(to_row) * (TAPS - 1) * CONV_DIM + channel;
          const bool is_kept = is_value || member == 0;  // heads that share a key head compute its channels, too
          float x = 0;
          UNROLL for (int t = 0; t < TAPS; ++t) {
            const T element = t < TAPS - 1 ? conv_state[old + t * CONV_DIM] : mixed[mixed_row + from];
            x += float(element) * float(conv_weight[channel * TAPS + t]);
            if (t > 0 && is_kept) conv_to[fresh + (t - 1) * CONV_DIM] = element;
          }
          x = ROUND(x);
          if (HAS_CONV_BIAS) x = ROUND(x + float(conv_bias[channel]));
          const float open = ROUND(1.0f / ROUND(1.0f + ROUND(EXP(MAX(x, -x)))));
          x = ROUND(x * (x < 0 ? open : ROUND(1.0f - open)));
          convolved[c] = x;
          MY(squares)[0] += is_query ? x * x : 0.0f;
          MY(squares)[1] += is_query || is_value ? 0.0f : x * x;
        }
      }
      float time = float(times[INDEX(row) * times_shape[2] + time_at]) + float(time_bias[head]);
      if (WIDE_TIMES) {
        time = MAX(time, 0.0f) + LOG1P(EXP(-MAX(time, -time)));
      } else {
        time = ROUND(time);
        time = ROUND(MAX(time, 0.0f) + ROUND(LOG1P(ROUND(EXP(-MAX(time, -time))))));
      }
      MY(scalars)[0] = EXP(-EXP(float(log_rates[head])) * time);
      const float beta = float(write_gates[INDEX(row) * write_gates_shape[2] + beta_at]);
      const float open = ROUND(1.0f / ROUND(1.0f + ROUND(EXP(MAX(beta, -beta)))));
      MY(scalars)[1] = beta < 0 ? open : ROUND(1.0f - open);
    }
    UNROLL for (int apart = 16; apart > 0; apart /= 2) {
      EACH_THREAD {
        UNROLL for (int s = 0; s < 2; ++s) MY(moved)[s] = FROM_XOR(squares, s, apart);
      }
      EACH_THREAD {
        UNROLL for (int s = 0; s < 2; ++s) MY(squares)[s] += MY(moved)[s];
      }
    }
    EACH_THREAD {
      if (TID % 32 == 0) {
        totals[TID / 32] = MY(squares)[0];
        totals[WARPS_OF_GROUP + TID / 32] = MY(squares)[1];
      }
    }
    BARRIER;
    EACH_THREAD {
      float query_sum = 0, key_sum = 0;
      UNROLL for (int w = 0; w < WARPS_OF_GROUP; ++w) {
        query_sum += totals[w];
        key_sum += totals[WARPS_OF_GROUP + w];
      }
      const float query_factor = INVERSE_ROOT(query_sum / float(KEY_DIM) + numbers[NUMBER_EPS]);
      const float key_factor = INVERSE_ROOT(key_sum / float(KEY_DIM) + numbers[NUMBER_EPS]);
      UNROLL for (int i = 0; i < WIDTH; ++i) {
        const int d = PLACE(TID % LANES, i);
        MY(query)[i] = ROUND(ROUND(numbers[NUMBER_QUERY_SCALE]) * ROUND(convolved[d] * query_factor));
        MY(key)[i] = ROUND(ROUND(numbers[NUMBER_KEY_SCALE]) * ROUND(convolved[KEY_DIM + d] * key_factor));
      }
    }
  }
  EACH_THREAD {
    MY(sums)[2 * LINES] = 0;
    UNROLL for (int i = 0; i < WIDTH; ++i) MY(sums)[2 * LINES] += MY(key)[i] * MY(query)[i];
    UNROLL for (int l = 0; l < LINES; ++l) {
      MY(sums)[2 * l] = MY(sums)[2 * l + 1] = 0;
      UNROLL for (int i = 0; i < WIDTH; ++i) {
        const float x = MY(line)[l * WIDTH + i] * MY(scalars)[0];
        MY(line)[l * WIDTH + i] = x;
        MY(sums)[2 * l] += x * MY(key)[i];
        MY(sums)[2 * l + 1] += x * MY(query)[i];
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
    UNROLL for (int l = 0; l < LINES; ++l) {
      const int element = pass * PASS_LINES + l * SUBGROUPS + TID / LANES;
      if (VALUE_DIM % PASS_LINES == 0 || element < VALUE_DIM) {
        const float update = (convolved[2 * KEY_DIM + element] - MY(sums)[2 * l]) * MY(scalars)[1];
        const INDEX to = (lines_to + element) * KEY_DIM;
        UNROLL for (int chunk = 0; chunk < CHUNKS; ++chunk) {
          Pack<float, VECTOR> piece;
          UNROLL for (int e = 0; e < VECTOR; ++e) {
            const int i = chunk * VECTOR + e;
            piece.at[e] = MY(line)[l * WIDTH + i] + update * MY(key)[i];
          }
          *(DEVICE Pack<float, VECTOR>*)(state_to + to + PLACE(TID % LANES, chunk * VECTOR)) = piece;
        }
        const float x = ROUND(MY(sums)[2 * l + 1] + update * MY(sums)[2 * LINES]);
        if (TID % LANES == 0) {
          outs[element] = x;
          MY(squares)[2] += x * x;
        }
      }
    }
  }
}
UNROLL for (int apart = 16; apart > 0; apart /= 2) {
  EACH_THREAD { MY(moved)[2] = FROM_XOR(squares, 2, apart); }
  EACH_THREAD { MY(squares)[2] += MY(moved)[2]; }
}
EACH_THREAD {
  if (TID % 32 == 0) totals[2 * WARPS_OF_GROUP + TID / 32] = MY(squares)[2];
}
BARRIER;
EACH_THREAD {
  float sum = 0;
  UNROLL for (int w = 0; w < WARPS_OF_GROUP; ++w) sum += totals[2 * WARPS_OF_GROUP + w];
  const float factor = INVERSE_ROOT(sum / float(VALUE_DIM) + numbers[NUMBER_OUT_EPS]);
  UNROLL for (int i = 0; i < GATES; ++i) {
    const int d = i * THREADS + TID;
    if (d < VALUE_DIM) {
      float x = WIDE_NORM ? outs[d] * factor : ROUND(outs[d] * factor);
      x *= float(norm_weight[d]);
      x = WIDE_NORM ? x : ROUND(x);
      hidden[(INDEX(row) * HEADS + head) * VALUE_DIM + d] = T(MY(gate)[i] / (1.0f + EXP(-MY(gate)[i])) * x);
    }
  }
}
