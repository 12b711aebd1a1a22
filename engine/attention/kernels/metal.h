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

// Matrix products of a SIMD group, of four by two of Metal's matrices of 8 x 8; see tiles.h. A lane holds two
// neighbouring elements of each such matrix: in MLX's own kernels the same places as here.
#define PAIR_TYPE metal::vec<T, 2>
#define PAIR_ROW (TID % 32 / 16 * 4 + TID / 2 % 4)
#define PAIR_COLUMN (TID % 16 / 8 * 4 + TID % 2 * 2)
#define LANES_OF_ROW_1 1
#define LANES_OF_ROW_2 8
#define PAIR_AT(pointer) (*(const device metal::vec<T, 2>*)(pointer))
#define MAKE_PAIR(low, high) metal::vec<T, 2>(T(low), T(high))
#define LOAD_LEFT(into, at, source, pitch) load_pairs<T>(&into[at], source, pitch, PAIR_ROW, PAIR_COLUMN)
#define LOAD_RIGHT_BY_ROW(into, source, pitch) load_right_by_row<T>(into, source, pitch, PAIR_ROW, PAIR_COLUMN)
#define LOAD_RIGHT_BY_COLUMN(into, source, pitch) load_pairs<T>(into, source, pitch, PAIR_ROW, PAIR_COLUMN)
#define MULTIPLY(sums, at, left, left_at, right, right_at) multiply<T>(&sums[at], &left[left_at], &right[right_at])
#define WORKSPACE(type, name, count) alignas(16) threadgroup type name[count]
#define COPIES_ASYNC false
#define COPY_ASYNC(to, from)
#define COPIES_DONE

template <typename T>
void load_pairs(thread metal::vec<T, 2>* into, const threadgroup T* source, int pitch, int row, int column) {
  for (int i = 0; i < 4; ++i) {
    const threadgroup T* pair = source + (i % 2 * 8 + row) * pitch + i / 2 * 8 + column;
    into[i] = metal::vec<T, 2>(pair[0], pair[1]);
  }
}
template <typename T>
void load_right_by_row(thread metal::vec<T, 2>* into, const threadgroup T* source, int pitch, int row, int column) {
  for (int i = 0; i < 4; ++i) {
    const threadgroup T* element = source + (i / 2 * 8 + column) * pitch + i % 2 * 8 + row;
    into[i] = metal::vec<T, 2>(element[0], element[pitch]);
  }
}
template <typename T>
void multiply(thread float* sums, const thread metal::vec<T, 2>* left, const thread metal::vec<T, 2>* right) {
  for (int half_rows = 0; half_rows < 2; ++half_rows) {
    metal::simdgroup_matrix<float, 8, 8> product;
    thread metal::vec<float, 2>& pair = reinterpret_cast<thread metal::vec<float, 2>&>(product.thread_elements());
    pair = metal::vec<float, 2>(sums[2 * half_rows], sums[2 * half_rows + 1]);
    for (int side = 0; side < 2; ++side) {
      metal::simdgroup_matrix<T, 8, 8> a, b;
      reinterpret_cast<thread metal::vec<T, 2>&>(a.thread_elements()) = left[2 * side + half_rows];
      reinterpret_cast<thread metal::vec<T, 2>&>(b.thread_elements()) = right[side];
      simdgroup_multiply_accumulate(product, a, b, product);
    }
    sums[2 * half_rows] = pair.x;
    sums[2 * half_rows + 1] = pair.y;
  }
}
