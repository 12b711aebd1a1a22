// Sums a token's experts.
//   expert_outs (rows * TOP, SIZE); shares (rows, TOP); shared_out (rows, SIZE): of the expert that serves all tokens,
//   times sigmoid(shared_logit) where IS_GATED, (rows, 1); not read unless HAS_SHARED
//   summed (rows, SIZE)
// Rounded as often as mlx-lm rounds; products only where ROUNDS. A thread computes two elements.
EACH_THREAD {
  const int element = (GROUP_X * THREADS + TID) * 2;
  if (element < SIZE) {
    float sums[2] = {0, 0};
    UNROLL for (int i = 0; i < TOP; ++i) {
      const int pair = GROUP_Y * TOP + i;
      const float share = shares[pair];
      const Pack<T, 2> out = *(const DEVICE Pack<T, 2>*)(expert_outs + INDEX(pair) * SIZE + element);
      UNROLL for (int e = 0; e < 2; ++e) {
        const float product = float(out.at[e]) * share;
        sums[e] += ROUNDS ? float(T(product)) : product;
      }
    }
    Pack<T, 2> result;
    UNROLL for (int e = 0; e < 2; ++e) result.at[e] = T(sums[e]);
    if (HAS_SHARED) {
      const Pack<T, 2> more = *(const DEVICE Pack<T, 2>*)(shared_out + INDEX(GROUP_Y) * SIZE + element);
      float gate = 1;
      if (IS_GATED) gate = float(T(1.0f / (1.0f + POWER_OF_2(float(shared_logit[GROUP_Y]) * -SCALE))));
      UNROLL for (int e = 0; e < 2; ++e) {
        result.at[e] = T(float(result.at[e]) + float(T(float(more.at[e]) * gate)));
      }
    }
    *(DEVICE Pack<T, 2>*)(summed + INDEX(GROUP_Y) * SIZE + element) = result;
  }
}
