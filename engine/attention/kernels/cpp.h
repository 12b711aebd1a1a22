// The words of the kernels' bodies in plain C++, for the tests. README.md explains each of them.
// EACH_THREAD runs a group's threads one after another, so that all of them are done before the next block.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define DEVICE
#define CALLABLE
typedef long long INDEX;
#define THREADS 128
#define EACH_THREAD for (int TID = 0; TID < THREADS; ++TID)
#define PRIVATE(type, name, count) type name[THREADS][count]
#define MY(name) name[TID]
#define SHARED(type, name, count) type name[count]
#define END_GROUP continue
#define BARRIER
#define BARRIER_DEVICE
#define FROM_XOR(name, i, other) name[TID ^ (other)][i]
#define FROM_LANE(name, i, lane) name[TID / LANES * LANES + (lane)][i]
#define ANY(x) true  // what it guards is harmless, only needless
#define BALLOT(name) ballot(&name[TID / 32 * 32])
#define BALLOT_OF_ALL(name) ballot(name)
#define MIN_INT(a, b) std::min(a, b)
#define MAX_INT(a, b) std::max(a, b)
#define NUM_BITS(x) __builtin_popcount(x)
#define FLOAT_OF_BITS(x) float_of_bits(x)
#define LOWEST_BIT(x) __builtin_ctz(x)
#define LOAD_ONCE(type, pointer) (*(const Pack<type, 4>*)(pointer))
#define UNROLL
#define EXP2(x) std::exp2(x)
#define EXP(x) std::exp(x)
#define LOG1P(x) std::log1p(x)
#define POWER_OF_2(x) std::exp2(x)
#define COS(x) std::cos(x)
#define SIN(x) std::sin(x)
#define INVERSE_ROOT(x) (1 / std::sqrt(x))
#define MAX(a, b) std::fmax(a, b)
#define MIN(a, b) std::fmin(a, b)

inline float float_of_bits(int bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

template <int COUNT>
unsigned ballot(const int (*values)[COUNT]) {
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= unsigned(values[lane][0] != 0) << lane;
  return bits;
}

struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
  explicit bfloat16_t(float x) {
    uint32_t word;
    std::memcpy(&word, &x, 4);
    bits = uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);  // to nearest, ties to even
  }
  explicit operator float() const {
    const uint32_t word = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &word, 4);
    return x;
  }
};
typedef _Float16 float16_t;

// Matrix products of a warp; see tiles.h. Lanes hold the pairs that CUDA's hold.
#define PAIR_TYPE Pack<T, 2>
#define PAIR_ROW (TID % 32 / 4)
#define PAIR_COLUMN (TID % 4 * 2)
#define LANES_OF_ROW_1 1
#define LANES_OF_ROW_2 2
#define PAIR_AT(pointer) (*(const Pack<T, 2>*)(pointer))
#define MAKE_PAIR(low, high) Pack<T, 2>{{T(low), T(high)}}
#define LOAD_LEFT(into, at, source, pitch) load_left(&MY(into)[at], source, pitch, TID % 32)
#define LOAD_RIGHT_BY_ROW(into, source, pitch) load_right_by_row(MY(into), source, pitch, TID % 32)
#define LOAD_RIGHT_BY_COLUMN(into, source, pitch) load_right_by_column(MY(into), source, pitch, TID % 32)
#define MULTIPLY(sums, at, left, left_at, right, right_at) \
  EACH_THREAD { multiply(&MY(sums)[at], &left[TID / 32 * 32], left_at, &right[TID / 32 * 32], right_at, TID % 32); }
#define WORKSPACE(type, name, count) SHARED(type, name, count)
#define COPIES_ASYNC false
#define COPY_ASYNC(to, from)
#define COPIES_DONE
#define COPY_PIECE(to, from, count) copy_piece(to, from, count)
#define FOUR_AT(pointer) four_at<Pack<float, 4>>(pointer)
#define PUT_FOUR(pointer, four) copy_piece(pointer, four.at, 4)
#define MULTIPLY_FLOATS(sums, at, left, left_at, right, right_at, exact)                                       \
  EACH_THREAD {                                                                                                \
    multiply_floats(&MY(sums)[at], &left[TID / 32 * 32], left_at, &right[TID / 32 * 32], right_at, TID % 32); \
  }

template <typename Pair, typename Source>
void load_left(Pair* into, Source* source, int pitch, int lane) {
  for (int i = 0; i < 4; ++i) {
    Source* pair = source + (i % 2 * 8 + lane / 4) * pitch + i / 2 * 8 + lane % 4 * 2;
    into[i] = Pair{{pair[0], pair[1]}};
  }
}
template <typename Pair, typename Source>
void load_right_by_row(Pair* into, Source* source, int pitch, int lane) {
  for (int i = 0; i < 4; ++i) {
    Source* pair = source + (i / 2 * 8 + lane / 4) * pitch + i % 2 * 8 + lane % 4 * 2;
    into[i] = Pair{{pair[0], pair[1]}};
  }
}
template <typename Pair, typename Source>
void load_right_by_column(Pair* into, Source* source, int pitch, int lane) {
  for (int i = 0; i < 4; ++i) {
    Source* pair = source + (i % 2 * 8 + lane % 4 * 2) * pitch + i / 2 * 8 + lane / 4;
    into[i] = Pair{{pair[0], pair[pitch]}};
  }
}
template <typename Left, typename Right>
void multiply(float* sums, const Left* left, int left_at, const Right* right, int right_at, int lane) {
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4, column = lane % 4 * 2 + e % 2;
    for (int k = 0; k < 16; ++k) {
      const auto& a = left[row * 4 + k % 8 / 2][left_at + k / 8 * 2 + e / 2];
      const auto& b = right[column * 4 + k % 8 / 2][right_at + k / 8];
      sums[e] += float(a.at[k % 2]) * float(b.at[k % 2]);
    }
  }
}

template <typename To, typename From>
void copy_piece(To* to, const From* from, int count) {
  for (int i = 0; i < count; ++i) to[i] = from[i];
}
template <typename Four, typename E>
Four four_at(E* from) {
  return Four{{from[0], from[1], from[2], from[3]}};
}
template <typename Left, typename Right>
void multiply_floats(float* sums, const Left* left, int left_at, const Right* right, int right_at, int lane) {
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4, column = lane % 4 * 2 + e % 2;
    for (int k = 0; k < 8; ++k) {
      sums[e] += left[row * 4 + k % 4][left_at + k / 4 * 2 + e / 2] * right[column * 4 + k % 4][right_at + k / 4];
    }
  }
}
