// The words of the kernels' bodies in plain C++, for the tests. README.md explains each of them.
// EACH_THREAD runs a group's threads one after another, so that all of them are done before the next block.
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
#define UNROLL
#define EXP2(x) std::exp2(x)
#define POWER_OF_2(x) std::exp2(x)
#define COS(x) std::cos(x)
#define SIN(x) std::sin(x)
#define INVERSE_ROOT(x) (1 / std::sqrt(x))
#define MAX(a, b) std::fmax(a, b)
#define MIN(a, b) std::fmin(a, b)

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
