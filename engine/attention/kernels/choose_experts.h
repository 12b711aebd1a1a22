// Chooses a token's experts and their shares in its output.
//   logits (rows, EXPERTS); corrections (EXPERTS,): added to the scores for the choice alone, where SIGMOID
//   rows (rows, INPUTS), gate_weight (1, INPUTS): gate_logit (rows,) is their product, where INPUTS is not 0
//   chosen, shares (rows, TOP): the TOP experts of the highest scores, the highest first
// A score is the softmax over all experts, rounded to T, or where SIGMOID the sigmoid. Shares are scores, where
// NORMALISES divided by their sum, times the number of bits FACTOR.
// Equal scores are in the order in
// which a stable sort leaves them that mlx-lm takes the last of, or where SIGMOID the first. A thread group takes a row:
// a thread counts for each of its experts how many come before it.
constexpr int PER_THREAD = (EXPERTS + THREADS - 1) / THREADS, WARPS = THREADS / 32;
SHARED(float, keys, EXPERTS);
SHARED(float, best, TOP);
SHARED(float, parts, 3 * WARPS);
PRIVATE(float, own, PER_THREAD);
PRIVATE(float, reduced, 1);
PRIVATE(float, other, 1);

if (INPUTS) {
  EACH_THREAD {
    MY(reduced)[0] = 0;
    for (int i = TID * 8; i < INPUTS; i += THREADS * 8) {
      const Pack<T, 8> row = *(const DEVICE Pack<T, 8>*)(rows + INDEX(GROUP_Y) * INPUTS + i);
      const Pack<T, 8> weights = *(const DEVICE Pack<T, 8>*)(gate_weight + i);
      UNROLL for (int e = 0; e < 8; ++e) MY(reduced)[0] += float(row.at[e]) * float(weights.at[e]);
    }
  }
  UNROLL for (int lanes = 16; lanes > 0; lanes /= 2) {
    EACH_THREAD { MY(other)[0] = FROM_XOR(reduced, 0, lanes); }
    EACH_THREAD { MY(reduced)[0] += MY(other)[0]; }
  }
  EACH_THREAD {
    if (TID % 32 == 0) parts[2 * WARPS + TID / 32] = MY(reduced)[0];
  }
}
EACH_THREAD {
  MY(reduced)[0] = LOWEST;
  UNROLL for (int i = 0; i < PER_THREAD; ++i) {
    const int expert = TID + i * THREADS;
    MY(own)[i] = expert < EXPERTS ? float(logits[GROUP_Y * EXPERTS + expert]) : LOWEST;
    MY(reduced)[0] = MAX(MY(reduced)[0], MY(own)[i]);
  }
}
if (SIGMOID) {
  EACH_THREAD {
    UNROLL for (int i = 0; i < PER_THREAD; ++i) {
      const float logit = MY(own)[i];
      const float small = 1.0f / (1.0f + POWER_OF_2(MAX(logit, -logit) * SCALE));
      MY(own)[i] = logit < 0 ? small : 1.0f - small;
    }
  }
} else {
  UNROLL for (int lanes = 16; lanes > 0; lanes /= 2) {
    EACH_THREAD { MY(other)[0] = FROM_XOR(reduced, 0, lanes); }
    EACH_THREAD { MY(reduced)[0] = MAX(MY(reduced)[0], MY(other)[0]); }
  }
  EACH_THREAD {
    if (TID % 32 == 0) parts[TID / 32] = MY(reduced)[0];
  }
  BARRIER;
  EACH_THREAD {
    float peak = parts[0];
    UNROLL for (int warp = 1; warp < WARPS; ++warp) peak = MAX(peak, parts[warp]);
    MY(reduced)[0] = 0;
    UNROLL for (int i = 0; i < PER_THREAD; ++i) {
      MY(own)[i] = POWER_OF_2((MY(own)[i] - peak) * SCALE);
      MY(reduced)[0] += MY(own)[i];
    }
  }
  UNROLL for (int lanes = 16; lanes > 0; lanes /= 2) {
    EACH_THREAD { MY(other)[0] = FROM_XOR(reduced, 0, lanes); }
    EACH_THREAD { MY(reduced)[0] += MY(other)[0]; }
  }
  EACH_THREAD {
    if (TID % 32 == 0) parts[WARPS + TID / 32] = MY(reduced)[0];
  }
  BARRIER;
  EACH_THREAD {
    float total = 0;
    UNROLL for (int warp = 0; warp < WARPS; ++warp) total += parts[WARPS + warp];
    UNROLL for (int i = 0; i < PER_THREAD; ++i) MY(own)[i] = float(T(MY(own)[i] / total));
  }
}
EACH_THREAD {
  UNROLL for (int i = 0; i < PER_THREAD; ++i) {
    const int expert = TID + i * THREADS;
    if (expert < EXPERTS) {
      const float key = MY(own)[i] + (SIGMOID ? float(corrections[expert]) : 0.0f);
      keys[expert] = key == key ? key : LOWEST;  // an order that holds NaN would leave places empty
    }
  }
}
BARRIER;
EACH_THREAD {
  UNROLL for (int i = 0; i < PER_THREAD; ++i) {
    const int expert = TID + i * THREADS;
    if (expert < EXPERTS) {
      const float key = keys[expert];
      int place = 0;
      for (int j = 0; j < EXPERTS; ++j) {
        const float another = keys[j];
        place += another > key || (another == key && (SIGMOID ? j < expert : j > expert));
      }
      if (place < TOP) {
        chosen[GROUP_Y * TOP + place] = expert;
        best[place] = MY(own)[i];
      }
    }
  }
}
BARRIER;
EACH_THREAD {
  if (INPUTS && TID == 0) {
    float logit = 0;
    UNROLL for (int warp = 0; warp < WARPS; ++warp) logit += parts[2 * WARPS + warp];
    gate_logit[GROUP_Y] = T(logit);
  }
  if (TID < TOP) {
    float share = best[TID], sum = 0;
    UNROLL for (int place = 0; place < TOP; ++place) sum += best[place];
    if (NORMALISES) share = SIGMOID ? share / (sum + 1e-20f) : float(T(share / float(T(sum))));
    shares[GROUP_Y * TOP + TID] = SIGMOID ? share * FLOAT_OF_BITS(FACTOR) : share;
  }
}
