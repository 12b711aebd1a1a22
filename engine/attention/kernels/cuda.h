// The words of the kernels' bodies in CUDA. README.md explains each of them.
#define DEVICE
#define CALLABLE __device__
typedef long long INDEX;
#define THREADS 128
#define EACH_THREAD
#define PRIVATE(type, name, count) type name[count]
#define MY(name) name
#define SHARED(type, name, count) __shared__ type name[count]
#define END_GROUP return
#define BARRIER __syncthreads()
#define BARRIER_DEVICE __syncthreads()
#define FROM_XOR(name, i, other) __shfl_xor_sync(0xffffffffu, name[i], other)
#define FROM_LANE(name, i, lane) __shfl_sync(0xffffffffu, name[i], lane, LANES)
#define ANY(x) __any_sync(0xffffffffu, x)
#define UNROLL _Pragma("unroll")
#define EXP2(x) exp2_fast(x)
#define POWER_OF_2(x) exp2f(x)
#define COS(x) cosf(x)
#define SIN(x) sinf(x)
#define INVERSE_ROOT(x) rsqrtf(x)
#define MAX(a, b) fmaxf(a, b)
#define MIN(a, b) fminf(a, b)

__device__ inline float exp2_fast(float x) {  // exp2f without its care for denormal numbers
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
