// A matrix product of a mixture of experts for many tokens.
//   inputs (rows, INPUTS); weights, lower_weights (experts, OUTPUTS, INPUTS); outputs (pairs, OUTPUTS): as in experts.h
//   order, pair_tiles: see group_pairs.h
// Where GATHERS, inputs are in the pairs' order, one row for each `share` of them, and outputs in that of `order`; else
// the other way round. A thread group takes a tile of pairs and ROWS rows of weights, which are the left matrix; where
// GATED, 16 of `weights` and 16 of `lower_weights` by turns. Both lie in shared memory, DEPTH elements of each row at a
// time, while the next ones are loaded. Past the last pair of a tile the last one is computed again and not stored.
constexpr int ROWS = 128, DEPTH = 64, PITCH = DEPTH + 8, COLUMNS = PAIRS / 8;
constexpr int LOADERS = DEPTH / 8;  // threads that load a row
constexpr int BUFFER = (ROWS + PAIRS) * PITCH;
constexpr int WEIGHT_LOADS = ROWS * LOADERS / THREADS, PAIR_LOADS = PAIRS * LOADERS / THREADS;
constexpr int STRIDE = THREADS / LOADERS;  // rows of a load of all threads: the 16 of a matrix
constexpr int OUTPUT_ROWS = GATED ? ROWS / 2 : ROWS;
const int expert = pair_tiles[GROUP_Y * 3], start = pair_tiles[GROUP_Y * 3 + 1], count = pair_tiles[GROUP_Y * 3 + 2];
const int first_output = GROUP_X * OUTPUT_ROWS;
const int share = order_shape[0] / inputs_shape[0];
SHARED(int, members, PAIRS);
WORKSPACE(T, workspace, 2 * BUFFER);
PRIVATE(PAIR_TYPE, left, 8);
PRIVATE(PAIR_TYPE, right, 4);
PRIVATE(float, sums, 2 * COLUMNS * 4);
PRIVATE(int, rows, PAIR_LOADS);

#define COPY_EIGHT(to, from)                                                            \
  if (COPIES_ASYNC) {                                                                   \
    COPY_ASYNC(workspace + (to), from);                                                 \
  } else {                                                                              \
    UNROLL for (int e = 0; e < 8; ++e) workspace[(to) + e] = (from)[e];                 \
  }
#define STAGE_ELEMENTS(at, buffer)                                                                              \
  {                                                                                                             \
    const int row = TID / LOADERS, element = TID % LOADERS * 8;                                                 \
    UNROLL for (int i = 0; i < WEIGHT_LOADS; ++i) {                                                             \
      const int wanted = first_output + (GATED ? i / 2 : i) * STRIDE + row;                                     \
      const INDEX output = INDEX(expert) * OUTPUTS + (wanted < OUTPUTS ? wanted : OUTPUTS - 1);                 \
      const DEVICE T* const from = (GATED && i % 2 ? lower_weights : weights) + output * INPUTS + (at) + element; \
      COPY_EIGHT((buffer) + (i * STRIDE + row) * PITCH + element, from)                                         \
    }                                                                                                           \
    UNROLL for (int i = 0; i < PAIR_LOADS; ++i) {                                                               \
      const DEVICE T* const from = inputs + INDEX(MY(rows)[i]) * INPUTS + (at) + element;                       \
      COPY_EIGHT((buffer) + (ROWS + i * STRIDE + row) * PITCH + element, from)                                  \
    }                                                                                                           \
  }

if (count == 0) END_GROUP;
EACH_THREAD {
  if (TID < PAIRS) members[TID] = order[start + MIN_INT(TID, count - 1)];
  UNROLL for (int i = 0; i < 2 * COLUMNS * 4; ++i) MY(sums)[i] = 0;
}
BARRIER;
EACH_THREAD {
  UNROLL for (int i = 0; i < PAIR_LOADS; ++i) {
    const int pair = i * STRIDE + TID / LOADERS;
    MY(rows)[i] = GATHERS ? members[pair] / share : start + MIN_INT(pair, count - 1);
  }
  STAGE_ELEMENTS(0, 0)
}
for (int at = 0, buffer = 0; at < INPUTS; at += DEPTH, buffer = BUFFER - buffer) {
  COPIES_DONE;
  BARRIER;
  if (at + DEPTH < INPUTS) {
    EACH_THREAD { STAGE_ELEMENTS(at + DEPTH, BUFFER - buffer) }
  }
  UNROLL for (int step = 0; step < DEPTH; step += 16) {
    EACH_THREAD {
      UNROLL for (int m = 0; m < 2; ++m) {
        LOAD_LEFT(left, m * 4, workspace + buffer + (TID / 32 * 2 + m) * 16 * PITCH + step, PITCH);
      }
    }
    UNROLL for (int n = 0; n < COLUMNS; n += 2) {
      EACH_THREAD { LOAD_RIGHT_BY_ROW(right, workspace + buffer + (ROWS + n * 8) * PITCH + step, PITCH); }
      UNROLL for (int m = 0; m < 2; ++m) {
        MULTIPLY(sums, (m * COLUMNS + n) * 4, left, m * 4, right, 0);
        MULTIPLY(sums, (m * COLUMNS + n + 1) * 4, left, m * 4, right, 2);
      }
    }
  }
}

EACH_THREAD {
  UNROLL for (int m = 0; m < (GATED ? 1 : 2); ++m) {
    UNROLL for (int i = 0; i < COLUMNS * 4; ++i) {
      const int pair = i / 4 * 8 + PAIR_COLUMN + i % 2;
      const int output = first_output + (TID / 32 * (GATED ? 1 : 2) + m) * 16 + PAIR_ROW + i % 4 / 2 * 8;
      if (pair < count && output < OUTPUTS) {
        T result = T(MY(sums)[m * COLUMNS * 4 + i]);
        if (GATED) {
          const float gate = float(result);
          const float sigmoid = float(T(1.0f / (1.0f + POWER_OF_2(gate * -SCALE))));
          result = T(float(T(gate * sigmoid)) * float(T(MY(sums)[COLUMNS * 4 + i])));
        }
        outputs[INDEX(GATHERS ? start + pair : members[pair]) * OUTPUTS + output] = result;
      }
    }
  }
}
