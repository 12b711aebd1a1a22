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
#define BALLOT(name) __ballot_sync(0xffffffffu, name[0])
#define BALLOT_OF_ALL(name) BALLOT(name)
#define MIN_INT(a, b) min(a, b)
#define MAX_INT(a, b) max(a, b)
#define NUM_BITS(x) __popc(x)
#define FLOAT_OF_BITS(x) __int_as_float(x)
#define LOWEST_BIT(x) (__ffs(x) - 1)
#define LOAD_ONCE(type, pointer) load_once<Pack<type, 4>>(pointer)
#define UNROLL _Pragma("unroll")
#define EXP2(x) exp2_fast(x)
#define EXP(x) expf(x)
#define LOG1P(x) log1pf(x)
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

template <typename Four>
__device__ inline Four load_once(const void* from) {  // 16 bytes that no other thread of the group reads
  Four to;
  asm("ld.global.nc.L1::no_allocate.L2::128B.v4.b32 {%0, %1, %2, %3}, [%4];"
      : "=r"(to.at[0]), "=r"(to.at[1]), "=r"(to.at[2]), "=r"(to.at[3])
      : "l"(from));
  return to;
}

// Matrix products of a warp; see tiles.h. A pair of 16-bit elements is a register.
#define PAIR_TYPE unsigned
#define PAIR_ROW (TID % 32 / 4)
#define PAIR_COLUMN (TID % 4 * 2)
#define LANES_OF_ROW_1 1
#define LANES_OF_ROW_2 2
#define PAIR_AT(pointer) (*(const unsigned*)(pointer))
#define MAKE_PAIR(low, high) make_pair(T(), low, high)
#define LOAD_LEFT(into, at, source, pitch) load_left(&into[at], source, pitch)
#define LOAD_RIGHT_BY_ROW(into, source, pitch) load_right_by_row(into, source, pitch)
#define LOAD_RIGHT_BY_COLUMN(into, source, pitch) load_right_by_column(into, source, pitch)
#define MULTIPLY(sums, at, left, left_at, right, right_at) multiply(T(), &sums[at], &left[left_at], &right[right_at])
#define WORKSPACE(type, name, count)                            \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  type* const name = reinterpret_cast<type*>(name##_bytes)
#define COPIES_ASYNC true
#define COPY_ASYNC(to, from)                                                                                   \
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) \
               : "memory")
#define COPY_PIECE(to, from, count) COPY_ASYNC(to, from)
#define FOUR_AT(pointer) (*(const Pack<float, 4>*)(pointer))
#define PUT_FOUR(pointer, four) *(Pack<float, 4>*)(pointer) = four
#define MULTIPLY_FLOATS(sums, at, left, left_at, right, right_at, exact) \
  multiply_floats<exact>(&sums[at], &left[left_at], &right[right_at])
#define COPIES_DONE asm volatile("cp.async.wait_all;" ::: "memory")

__device__ inline unsigned make_pair(__nv_bfloat16, float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ inline unsigned make_pair(__half, float low, float high) {
  unsigned pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ inline void load_matrices(unsigned* into, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3])
               : "r"((unsigned)__cvta_generic_to_shared(row)));
}
template <typename T>
__device__ inline void load_left(unsigned* into, const T* source, int pitch) {
  const int lane = threadIdx.x % 32;
  load_matrices(into, source + (lane % 8 + lane / 8 % 2 * 8) * pitch + lane / 16 * 8);
}
template <typename T>
__device__ inline void load_right_by_row(unsigned* into, const T* source, int pitch) {
  const int lane = threadIdx.x % 32;
  load_matrices(into, source + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8);
}
template <typename T>
__device__ inline void load_right_by_column(unsigned* into, const T* source, int pitch) {
  const int lane = threadIdx.x % 32;
  const T* row = source + (lane % 8 + lane / 8 % 2 * 8) * pitch + lane / 16 * 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3])
               : "r"((unsigned)__cvta_generic_to_shared(row)));
}

__device__ inline void multiply(__nv_bfloat16, float* sums, const unsigned* left, const unsigned* right) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}
__device__ inline void multiply(__half, float* sums, const unsigned* left, const unsigned* right) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// A product of floats in TF32, which has 11 bits of a float's 24: a float is the sum of its upper bits and the rest. EXACT
// factors, of the right one first, have no rest: they come from 16 bits.
__device__ inline void multiply_tf32(float* sums, const unsigned* left, const unsigned* right) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}
__device__ inline unsigned upper_bits(float x) { return __float_as_uint(x) & 0xffffe000u; }
__device__ inline unsigned lower_bits(float x) { return __float_as_uint(x - __uint_as_float(upper_bits(x))); }
template <int EXACT>
__device__ inline void multiply_floats(float* sums, const float* left, const float* right) {
  unsigned upper_left[4], lower_left[4], upper_right[2], lower_right[2];
  UNROLL for (int i = 0; i < 4; ++i) upper_left[i] = upper_bits(left[i]), lower_left[i] = lower_bits(left[i]);
  UNROLL for (int i = 0; i < 2; ++i) upper_right[i] = upper_bits(right[i]), lower_right[i] = lower_bits(right[i]);
  if (EXACT < 2) multiply_tf32(sums, lower_left, upper_right);
  if (EXACT < 1) multiply_tf32(sums, upper_left, lower_right);
  multiply_tf32(sums, upper_left, upper_right);
}
