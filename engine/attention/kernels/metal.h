// The words of the kernels' bodies in Metal. README.md explains each of them.
#define DEVICE device
#define CALLABLE
typedef long INDEX;
#define THREADS 128
#define EACH_THREAD
#define PRIVATE(type, name, count) type name[count]
#define MY(name) name
#define SHARED(type, name, count) threadgroup type name[count]
#define END_GROUP return
#define BARRIER threadgroup_barrier(mem_flags::mem_threadgroup)
#define BARRIER_DEVICE threadgroup_barrier(mem_flags::mem_device)
#define FROM_XOR(name, i, other) simd_shuffle_xor(name[i], ushort(other))
#define FROM_LANE(name, i, lane) simd_shuffle(name[i], ushort(TID % 32 / LANES * LANES + (lane)))
#define ANY(x) simd_any(x)
#define UNROLL _Pragma("clang loop unroll(full)")
#define EXP2(x) metal::fast::exp2(x)
#define POWER_OF_2(x) metal::exp2(x)
#define COS(x) metal::fast::cos(x)
#define SIN(x) metal::fast::sin(x)
#define INVERSE_ROOT(x) metal::precise::rsqrt(x)
#define MAX(a, b) metal::max(a, b)
#define MIN(a, b) metal::min(a, b)
