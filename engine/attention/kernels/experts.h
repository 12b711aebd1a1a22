// A matrix product of a mixture of experts for few tokens. A pair is a token's input and one of its experts.
//   inputs (rows, INPUTS): of the pairs, one row for each, or one for each `share` pairs that follow one another
//   weights, lower_weights (experts, OUTPUTS, INPUTS); experts (pairs,)
//   outputs (pairs, OUTPUTS): where GATED, silu(inputs * weights) * (inputs * lower_weights), rounded to T as often as
//     MLX rounds it; else inputs * weights, and lower_weights is not used
// A thread group takes a stretch of outputs for up to COLUMNS pairs of one expert, so that they read its weights once.
// The group of each pair looks for the others of its expert; the groups of all but every COLUMNS-th end at once.
// The weights' rows are the left matrix of tensor products: TILES tiles of 16 rows, of which, where GATED, the last 8
// are from lower_weights. Both matrices take the elements of a row in an order that lets each thread load 8 at once.
// The warps divide the inputs' elements among them. A pair's sums do not depend on the other pairs.
constexpr int WARPS = THREADS / 32, COLUMNS = 8, STEP = 32;
constexpr int STRIDE = WARPS * STEPS * STEP;
constexpr bool IS_EVEN = INPUTS % STRIDE == 0;
constexpr int TILE_OUTPUTS = GATED ? 8 : 16, GROUP_OUTPUTS = TILES * TILE_OUTPUTS;
constexpr int PITCH = COLUMNS + 1;  // so that threads that read neighbouring rows meet in no bank
const int num_pairs = experts_shape[0];
const int share = num_pairs / inputs_shape[0];
const int expert = int(experts[GROUP_Y]);
SHARED(int, members, COLUMNS);
SHARED(float, partials, WARPS * TILES * 16 * PITCH);
PRIVATE(int, matches, 1);
PRIVATE(float, sums, TILES * 4);
PRIVATE(PAIR_TYPE, left, STEPS * TILES * 8);
PRIVATE(PAIR_TYPE, right, STEPS * 4);

int num_before = 0, count = 0;
for (int start = 0; start < num_pairs && count < COLUMNS && !(start > GROUP_Y && num_before % COLUMNS); start += 32) {
  EACH_THREAD {
    const int pair = start + TID % 32;
    MY(matches)[0] = pair < num_pairs && int(experts[pair]) == expert;
  }
  unsigned found = BALLOT_OF_ALL(matches);
  const unsigned before = start > GROUP_Y ? 0 : start + 32 <= GROUP_Y ? ~0u : (1u << (GROUP_Y - start)) - 1;
  num_before += NUM_BITS(found & before);
  for (found &= ~before; found && count < COLUMNS; found &= found - 1) {
    EACH_THREAD {
      if (TID == 0) members[count] = start + LOWEST_BIT(found);
    }
    ++count;
  }
}
if (num_before % COLUMNS) END_GROUP;
BARRIER;

EACH_THREAD {
  UNROLL for (int i = 0; i < TILES * 4; ++i) MY(sums)[i] = 0;
}
for (int start = 0; start < INPUTS; start += STRIDE) {
  EACH_THREAD {
    const int lane = TID % 32, row = lane / 4;
    const int element = start + TID / 32 * STEPS * STEP + lane % 4 * 8;
    const DEVICE T* const input = inputs + INDEX(row < count ? members[row] / share : 0) * INPUTS + element;
    const INDEX first = (INDEX(expert) * OUTPUTS + GROUP_X * GROUP_OUTPUTS + row) * INPUTS + element;
    const DEVICE T* const upper = weights + first;
    const DEVICE T* const lower = lower_weights + first + (GATED ? 0 : 8 * INPUTS);
    UNROLL for (int step = 0; step < STEPS; ++step) {
      const bool is_inside = IS_EVEN || element + step * STEP < INPUTS;
      UNROLL for (int tile = 0; tile < TILES; ++tile) {
        const int at = tile * TILE_OUTPUTS * INPUTS + step * STEP;
        Pack<PAIR_TYPE, 4> above = {}, below = {};
        if (is_inside) {
          above = LOAD_ONCE(PAIR_TYPE, upper + at);
          below = LOAD_ONCE(PAIR_TYPE, lower + at);
        }
        UNROLL for (int i = 0; i < 4; ++i) {
          MY(left)[(step * TILES + tile) * 8 + 2 * i] = above.at[i];
          MY(left)[(step * TILES + tile) * 8 + 2 * i + 1] = below.at[i];
        }
      }
      Pack<PAIR_TYPE, 4> elements = {};
      if (is_inside && row < count) elements = *(const DEVICE Pack<PAIR_TYPE, 4>*)(input + step * STEP);
      UNROLL for (int i = 0; i < 4; ++i) MY(right)[step * 4 + i] = elements.at[i];
    }
  }
  UNROLL for (int step = 0; step < STEPS; ++step) {
    UNROLL for (int tile = 0; tile < TILES; ++tile) {
      UNROLL for (int part = 0; part < 2; ++part) {
        MULTIPLY(sums, tile * 4, left, (step * TILES + tile) * 8 + part * 4, right, step * 4 + part * 2);
      }
    }
  }
}

EACH_THREAD {
  UNROLL for (int i = 0; i < TILES * 4; ++i) {
    const int row = (TID / 32 * TILES + i / 4) * 16 + PAIR_ROW + i % 4 / 2 * 8;
    partials[row * PITCH + PAIR_COLUMN + i % 2] = MY(sums)[i];
  }
}
BARRIER;
EACH_THREAD {
  for (int i = TID; i < GROUP_OUTPUTS * count; i += THREADS) {
    const int column = i / GROUP_OUTPUTS, output = i % GROUP_OUTPUTS;
    const int row = output / TILE_OUTPUTS * 16 + output % TILE_OUTPUTS;
    float sum = 0, lower_sum = 0;
    UNROLL for (int warp = 0; warp < WARPS; ++warp) {
      const int at = (warp * TILES * 16 + row) * PITCH + column;
      sum += partials[at];
      if (GATED) lower_sum += partials[at + 8 * PITCH];
    }
    T result = T(sum);
    if (GATED) {
      const float gate = float(result);
      const float sigmoid = float(T(1.0f / (1.0f + POWER_OF_2(gate * -SCALE))));
      result = T(float(T(gate * sigmoid)) * float(T(lower_sum)));
    }
    outputs[INDEX(members[column]) * OUTPUTS + GROUP_X * GROUP_OUTPUTS + output] = result;
  }
}
