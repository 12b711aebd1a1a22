// A prompt's slice in a gated delta layer, from its input projections to the rule: convolves each channel with those of
// the tokens before, applies SiLU, and normalises queries and keys. A thread group takes RUN tokens for each of its warps,
// and one head of queries, keys or values.
//   mixed, write_gates, times (rows, tokens, ...): the projections; parts of one array, or of several, as in layer_step.h
//   conv_state, next_conv (rows, TAPS - 1, channels); conv_weight (channels, TAPS, 1); conv_bias (channels)
//   numbers: see NUMBER_...
//   lengths (rows): tokens of each row; what follows them is padding, which changes no state
//   queries, keys (rows, tokens, KEY_HEADS, KEY_DIM); values (rows, tokens, heads, VALUE_DIM)
//   token_times, token_gates (rows, tokens, heads): times and write_gates without what lies between; of padding such
//     that nothing decays and nothing is written
// It rounds where mlx-lm's operations round.
#define ROUND(x) float(T(x))
#define CLOSED -1e4f  // softplus and sigmoid of it are 0
constexpr int HEADS = KEY_HEADS * GROUP;
constexpr int UNITS = 2 * KEY_HEADS + HEADS;
constexpr int PIECES = ((KEY_DIM > VALUE_DIM ? KEY_DIM : VALUE_DIM) + 127) / 128;  // of 4 channels of a lane
constexpr int STRETCH = 2 * KEY_DIM + 2 * GROUP * VALUE_DIM;  // of a key head, where INTERLEAVED
constexpr int ALL_KEYS = KEY_HEADS * KEY_DIM;
constexpr int CONV_DIM = 2 * ALL_KEYS + HEADS * VALUE_DIM;
const int num_tokens = mixed_shape[1];
const int row = GROUP_Y / UNITS, unit = GROUP_Y % UNITS;
const int length = lengths[row];
const bool is_value = unit >= 2 * KEY_HEADS;
const int head = is_value ? unit - 2 * KEY_HEADS : unit % KEY_HEADS;
const int key_head = is_value ? head / GROUP : head;
const int dim = is_value ? VALUE_DIM : KEY_DIM;
const int channel = is_value ? 2 * ALL_KEYS + head * VALUE_DIM : unit * KEY_DIM;  // the head's first
const int within = is_value ? 2 * KEY_DIM + head % GROUP * VALUE_DIM : unit / KEY_HEADS * KEY_DIM;
const int mixed_at = MIXED_AT + (INTERLEAVED ? key_head * STRETCH + within : channel);
const int beta_at = BETAS_AT + (INTERLEAVED ? key_head * 2 * GROUP + head % GROUP : head);
const int time_at = TIMES_AT + (INTERLEAVED ? key_head * 2 * GROUP + GROUP + head % GROUP : head);
const int first_token = GROUP_X * (THREADS / 32) * RUN;
typedef Pack<T, 4> Four;
#define CHANNEL(p) ((p) * 128 + TID % 32 * 4)
#define TOKEN(r) (first_token + TID / 32 * RUN + (r))
// Four channels of a token; those before the slice are in conv_state.
#define MIXED(token, c)                                                                                         \
  ((token) < 0                                                                                                  \
       ? *(const DEVICE Four*)(conv_state + (INDEX(row) * (TAPS - 1) + (token) + TAPS - 1) * CONV_DIM + channel + (c)) \
       : *(const DEVICE Four*)(mixed + (INDEX(row) * num_tokens + (token)) * mixed_shape[2] + mixed_at + (c)))
PRIVATE(float, weight, TAPS * PIECES * 4);
PRIVATE(float, window, TAPS * PIECES * 4);  // the newest token last
PRIVATE(float, x, PIECES * 4);
PRIVATE(float, squares, 1);
PRIVATE(float, moved, 1);

EACH_THREAD {
  UNROLL for (int p = 0; p < PIECES; ++p) {
    const int c = CHANNEL(p);
    UNROLL for (int t = 0; t < TAPS; ++t) {
      const int token = TOKEN(t - TAPS);
      const bool is_old = t > 0 && c < dim && token < length;
      Four piece = {{T(0.0f), T(0.0f), T(0.0f), T(0.0f)}};
      if (is_old) piece = MIXED(token, c);
      UNROLL for (int e = 0; e < 4; ++e) {
        MY(window)[(t * PIECES + p) * 4 + e] = float(piece.at[e]);
        MY(weight)[(t * PIECES + p) * 4 + e] = c < dim ? float(conv_weight[(channel + c + e) * TAPS + t]) : 0.0f;
      }
    }
  }
}
for (int r = 0; r < RUN; ++r) {
  EACH_THREAD {
    const int token = TOKEN(r);
    MY(squares)[0] = 0;
    UNROLL for (int p = 0; p < PIECES; ++p) {
      const int c = CHANNEL(p);
      Four piece = {{T(0.0f), T(0.0f), T(0.0f), T(0.0f)}};
      if (c < dim && token < length) piece = MIXED(token, c);
      UNROLL for (int e = 0; e < 4; ++e) {
        UNROLL for (int t = 0; t + 1 < TAPS; ++t) {
          MY(window)[(t * PIECES + p) * 4 + e] = MY(window)[((t + 1) * PIECES + p) * 4 + e];
        }
        MY(window)[((TAPS - 1) * PIECES + p) * 4 + e] = float(piece.at[e]);
        float sum = 0;
        UNROLL for (int t = 0; t < TAPS; ++t) {
          sum += MY(window)[(t * PIECES + p) * 4 + e] * MY(weight)[(t * PIECES + p) * 4 + e];
        }
        sum = ROUND(sum);
        if (HAS_CONV_BIAS && c < dim) sum = ROUND(sum + float(conv_bias[channel + c + e]));
        sum = ROUND(sum * ROUND(1 / (1 + EXP(-sum))));
        MY(x)[p * 4 + e] = sum;
        MY(squares)[0] += sum * sum;
      }
    }
  }
  if (!is_value) {
    UNROLL for (int apart = 16; apart > 0; apart /= 2) {
      EACH_THREAD { MY(moved)[0] = FROM_XOR(squares, 0, apart); }
      EACH_THREAD { MY(squares)[0] += MY(moved)[0]; }
    }
  }
  EACH_THREAD {
    const INDEX at = INDEX(row) * num_tokens + TOKEN(r);
    if (TOKEN(r) < num_tokens) {
      const bool is_query = unit < KEY_HEADS;
      const float factor = INVERSE_ROOT(MY(squares)[0] / float(KEY_DIM) + numbers[NUMBER_EPS]);
      const float scale = ROUND(numbers[is_query ? NUMBER_QUERY_SCALE : NUMBER_KEY_SCALE]);
      UNROLL for (int p = 0; p < PIECES; ++p) {
        const int c = CHANNEL(p);
        if (c < dim) {
          Four piece;
          UNROLL for (int e = 0; e < 4; ++e) {
            piece.at[e] = T(is_value ? MY(x)[p * 4 + e] : scale * ROUND(MY(x)[p * 4 + e] * factor));
          }
          DEVICE T* const to = is_value ? values + (at * HEADS + head) * VALUE_DIM
              : is_query                ? queries + (at * KEY_HEADS + head) * KEY_DIM
                                        : keys + (at * KEY_HEADS + head) * KEY_DIM;
          *(DEVICE Four*)(to + c) = piece;
        }
      }
      if (is_value && TID % 32 == 0) {
        const bool is_padding = TOKEN(r) >= length;
        token_times[at * HEADS + head] = is_padding ? T(CLOSED) : times[at * times_shape[2] + time_at];
        token_gates[at * HEADS + head] = is_padding ? T(CLOSED) : write_gates[at * write_gates_shape[2] + beta_at];
      }
    }
  }
}
if (first_token + (THREADS / 32) * RUN >= num_tokens) {
  EACH_THREAD {
    if (TID < 32) {
      UNROLL for (int p = 0; p < PIECES; ++p) {
        const int c = CHANNEL(p);
        if (c < dim) {
          for (int t = 0; t < TAPS - 1; ++t) {
            const int token = length + t - (TAPS - 1);
            *(DEVICE Four*)(next_conv + (INDEX(row) * (TAPS - 1) + t) * CONV_DIM + channel + c) = MIXED(token, c);
          }
        }
      }
    }
  }
}
