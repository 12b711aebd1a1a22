// Sorts pairs of token and expert by expert, those of one expert in their order, and cuts them into tiles.
//   experts (pairs,); order (pairs,): the numbers of the pairs
//   pair_tiles (pairs / PAIRS + experts, 3): expert, first place in `order`, count, which is 0 where there is no tile
// A thread group takes an expert, its warps a stretch of the pairs each. The tiles of the expert numbered e whose pairs
// start at place p are numbered from p / PAIRS + e on: no two experts' meet, whatever their counts.
constexpr int WARPS = THREADS / 32;
const int num_pairs = experts_shape[0];
const int stretch = (num_pairs + THREADS - 1) / THREADS * 32;
SHARED(int, counts, 2 * WARPS);
PRIVATE(int, found, 2);  // pairs of earlier experts, of this one
PRIVATE(int, other, 2);
PRIVATE(int, place, 1);

EACH_THREAD {
  const int start = TID / 32 * stretch, end = MIN_INT(start + stretch, num_pairs);
  MY(found)[0] = MY(found)[1] = 0;
  for (int pair = start + TID % 32; pair < end; pair += 32) {
    const int expert = int(experts[pair]);
    MY(found)[0] += expert < GROUP_Y;
    MY(found)[1] += expert == GROUP_Y;
  }
}
UNROLL for (int lanes = 16; lanes > 0; lanes /= 2) {
  EACH_THREAD {
    UNROLL for (int i = 0; i < 2; ++i) MY(other)[i] = FROM_XOR(found, i, lanes);
  }
  EACH_THREAD {
    UNROLL for (int i = 0; i < 2; ++i) MY(found)[i] += MY(other)[i];
  }
}
EACH_THREAD {
  if (TID % 32 < 2) counts[TID / 32 * 2 + TID % 32] = MY(found)[TID % 32];
}
BARRIER;
int before = 0, count = 0;
UNROLL for (int warp = 0; warp < WARPS; ++warp) {
  before += counts[2 * warp];
  count += counts[2 * warp + 1];
}
EACH_THREAD {
  MY(place)[0] = before;
  for (int warp = 0; warp < TID / 32; ++warp) MY(place)[0] += counts[2 * warp + 1];
}
for (int at = 0; at < stretch; at += 32) {
  EACH_THREAD {
    const int pair = TID / 32 * stretch + at + TID % 32;
    MY(found)[0] = pair < num_pairs && int(experts[pair]) == GROUP_Y;
  }
  EACH_THREAD {
    const unsigned all = BALLOT(found);
    if (MY(found)[0]) {
      const int pair = TID / 32 * stretch + at + TID % 32;
      order[MY(place)[0] + NUM_BITS(all & ((1u << TID % 32) - 1))] = pair;
    }
    MY(place)[0] += NUM_BITS(all);
  }
}
EACH_THREAD {
  const int first = before / PAIRS + GROUP_Y, end = (before + count) / PAIRS + GROUP_Y + 1;
  for (int tile = first + TID; tile < end; tile += THREADS) {
    const int skipped = (tile - first) * PAIRS;
    pair_tiles[tile * 3] = GROUP_Y;
    pair_tiles[tile * 3 + 1] = before + skipped;
    pair_tiles[tile * 3 + 2] = MAX_INT(MIN_INT(count - skipped, PAIRS), 0);
  }
}
