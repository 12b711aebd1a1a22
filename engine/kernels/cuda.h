// What the kernels' bodies need of a language: CUDA.
#define DEVICE
typedef long long INDEX;
#define THREADS 128
#define EACH_THREAD
#define PRIVATE(type, name, count) type name[count]
#define MY(name) name
#define SHARED(type, name, count) __shared__ type name[count]
#define BARRIER __syncthreads()
#define UNROLL _Pragma("unroll")
#define EXP2(x) exp2f(x)
#define MAX(a, b) fmaxf(a, b)
#define LANES_SUM(name, count)                                                          \
  UNROLL for (int i_ = 0; i_ < (count); ++i_) {                                         \
    UNROLL for (int o_ = LANES / 2; o_ > 0; o_ /= 2) name[i_] += __shfl_xor_sync(0xffffffffu, name[i_], o_); \
  }
