// What the kernels' bodies need of a language: Metal.
#define DEVICE device
typedef long INDEX;
#define THREADS 128
#define EACH_THREAD
#define PRIVATE(type, name, count) type name[count]
#define MY(name) name
#define SHARED(type, name, count) threadgroup type name[count]
#define BARRIER threadgroup_barrier(mem_flags::mem_threadgroup)
#define UNROLL _Pragma("clang loop unroll(full)")
#define EXP2(x) metal::exp2(x)
#define MAX(a, b) metal::max(a, b)
#define LANES_SUM(name, count)                                                          \
  UNROLL for (int i_ = 0; i_ < (count); ++i_) {                                         \
    UNROLL for (int o_ = LANES / 2; o_ > 0; o_ /= 2) name[i_] += simd_shuffle_xor(name[i_], ushort(o_)); \
  }
