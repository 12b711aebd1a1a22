// A state space of Mamba 2 for one token a row: a head's state decays, takes the token in, and is read.
//   hidden, ssm_out (rows, heads, VALUE_DIM); writes, reads (rows, groups, KEY_DIM), which mlx-lm calls B and C
//   times (rows, heads), log_rates, time_biases, numbers: see ssm_times.h; skips (heads): the share of hidden in ssm_out
//   state, next_state (rows, heads, VALUE_DIM, KEY_DIM): a line for each element of hidden
// A thread group takes a part of one head's lines, a subgroup of LANES threads LINES of them.
const int num_heads = hidden_shape[1];
const int num_groups = writes_shape[1];
const int row = GROUP_Y / num_heads;
const int head = GROUP_Y % num_heads;
const int group = row * num_groups + head / (num_heads / num_groups);
#define ELEMENT(l) ((GROUP_X * SUBGROUPS + TID / LANES) * LINES + (l))
PRIVATE(float, write, WIDTH);
PRIVATE(float, read, WIDTH);
PRIVATE(float, sums, LINES);
PRIVATE(float, exchange, LINES);

EACH_THREAD {
  const int lane = TID % LANES;
  const float time = TIME_AT(GROUP_Y, head);
  const float decay = EXP(-RATE(head) * time);
  UNROLL for (int i = 0; i < WIDTH; ++i) {
    const int at = group * KEY_DIM + PLACE(lane, i);
    MY(write)[i] = float(writes[at]) * time;
    MY(read)[i] = float(reads[at]);
  }
  UNROLL for (int l = 0; l < LINES; ++l) {
    MY(sums)[l] = 0;
    if (ELEMENT(l) < VALUE_DIM) {
      const int place = GROUP_Y * VALUE_DIM + ELEMENT(l);
      const float x = float(hidden[place]);
      UNROLL for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        const INDEX at = INDEX(place) * KEY_DIM + PLACE(lane, chunk * VECTOR);
        Pack<float, VECTOR> piece = *(const DEVICE Pack<float, VECTOR>*)(state + at);
        UNROLL for (int e = 0; e < VECTOR; ++e) {
          const int i = chunk * VECTOR + e;
          piece.at[e] = piece.at[e] * decay + x * MY(write)[i];
          MY(sums)[l] += piece.at[e] * MY(read)[i];
        }
        *(DEVICE Pack<float, VECTOR>*)(next_state + at) = piece;
      }
    }
  }
}
UNROLL for (int stage = 1; stage <= LOG2(LANES); ++stage) {
  EACH_THREAD {
    UNROLL for (int l = 0; l < LINES; ++l) MY(exchange)[l] = FROM_XOR(sums, l, LANES >> stage);
  }
  EACH_THREAD {
    UNROLL for (int l = 0; l < LINES; ++l) MY(sums)[l] += MY(exchange)[l];
  }
}
EACH_THREAD {
  UNROLL for (int l = 0; l < LINES; ++l) {
    if (TID % LANES == 0 && ELEMENT(l) < VALUE_DIM) {
      const int place = GROUP_Y * VALUE_DIM + ELEMENT(l);
      ssm_out[place] = T(MY(sums)[l] + float(skips[head]) * float(hidden[place]));
    }
  }
}
