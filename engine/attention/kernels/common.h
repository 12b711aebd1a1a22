// Shared by the kernels, after a language's prelude. README.md explains the macros and the rules of a body.
// A lane holds WIDTH elements of a key and VALUE_WIDTH of a value, loaded in CHUNKS and VALUE_CHUNKS of VECTOR; PLACE is
// the number of a lane's element i.
template <typename E, int N>
struct alignas(sizeof(E) * N) Pack {
  E at[N];
};
#define CHUNKS (WIDTH / VECTOR)
#define VALUE_CHUNKS (VALUE_WIDTH / VECTOR)
#define SUBGROUPS (THREADS / LANES)  // a subgroup of LANES threads scores a token
#define PLACE(lane, i) (((i) / VECTOR * LANES + (lane)) * VECTOR + (i) % VECTOR)
#define LOAD(array, index) (*(const DEVICE Pack<T, VECTOR>*)((array) + (index)))
#define STORE(array, index) (*(DEVICE Pack<T, VECTOR>*)((array) + (index)))
#define LOWEST -1e30f  // the start of a maximum; infinity would give NaN
#define LOG2(n) ((n) < 2 ? 0 : (n) < 4 ? 1 : (n) < 8 ? 2 : (n) < 16 ? 3 : (n) < 32 ? 4 : 5)

// A token's head lies in a pool as a row, numbered head * slots + slot. This PoolRow is quantised: codes of BITS bits,
// then scale and offset of each UNIT elements (cache/packing.py says how). The PoolRow below, where BITS is 0, holds
// floats. A Chunk is N elements as they are loaded. A store unit is UNIT elements, which one thread stores.
template <typename T, int DIM, int BITS, int UNIT, int N>
struct PoolRow {
  typedef uint8_t Item;
  enum { CODE_BYTES = DIM * BITS / 8, BYTES = CODE_BYTES + DIM / UNIT * 2 * int(sizeof(T)), STORE_UNITS = DIM / UNIT };

  struct Chunk {
    Pack<uint8_t, N * BITS / 8> codes;
    Pack<T, 2> scale_and_offset;
    CALLABLE float at(int i) const {
      const int code = codes.at[i * BITS / 8] >> (i * BITS % 8) & ((1 << BITS) - 1);
      return float(code) * float(scale_and_offset.at[0]) + float(scale_and_offset.at[1]);
    }
  };

  CALLABLE static Chunk load(const DEVICE Item* pool, INDEX row, int element) {
    Chunk chunk;
    const DEVICE Item* bytes = pool + row * BYTES;
    chunk.codes = *(const DEVICE Pack<uint8_t, N * BITS / 8>*)(bytes + element * BITS / 8);
    chunk.scale_and_offset = *(const DEVICE Pack<T, 2>*)(bytes + CODE_BYTES + element / UNIT * 2 * int(sizeof(T)));
    return chunk;
  }

  CALLABLE static void store(DEVICE Item* pool, INDEX row, const DEVICE T* head, int unit) {
    const DEVICE T* from = head + unit * UNIT;
    float low = float(from[0]), high = low, broken = 0;
    for (int i = 0; i < UNIT; ++i) {
      const float element = float(from[i]);
      low = MIN(low, element);
      high = MAX(high, element);
      broken += element * 0.0f;  // NaN and infinity, which codes cannot hold, must show
    }
    const int top = (1 << BITS) - 1;
    const T scale = T((high - low) / float(top) + broken);
    const float codes_per_unit = 1.0f / MAX(float(scale), 1e-30f);
    DEVICE Item* bytes = pool + row * BYTES;
    for (int i = 0; i < UNIT; i += 8 / BITS) {
      int byte = 0;
      for (int j = 0; j < 8 / BITS; ++j) {
        const float code = (float(from[i + j]) - low) * codes_per_unit + 0.5f;
        byte |= int(MIN(code, float(top) + 0.5f)) << (j * BITS);
      }
      bytes[(unit * UNIT + i) * BITS / 8] = uint8_t(byte);
    }
    DEVICE T* scale_and_offset = (DEVICE T*)(bytes + CODE_BYTES) + 2 * unit;
    scale_and_offset[0] = scale;
    scale_and_offset[1] = T(low);
  }
};

template <typename T, int DIM, int UNIT, int N>
struct PoolRow<T, DIM, 0, UNIT, N> {
  typedef T Item;
  enum { STORE_UNITS = DIM };

  struct Chunk {
    Pack<T, N> elements;
    CALLABLE float at(int i) const { return float(elements.at[i]); }
  };

  CALLABLE static Chunk load(const DEVICE Item* pool, INDEX row, int element) {
    Chunk chunk;
    chunk.elements = *(const DEVICE Pack<T, N>*)(pool + row * DIM + element);
    return chunk;
  }

  CALLABLE static void store(DEVICE Item* pool, INDEX row, const DEVICE T* head, int unit) {
    pool[row * DIM + unit] = head[unit];
  }
};

// The rows of keys and of values. Where a value is its key's first elements, both are the same rows of the same pool.
#define HEAD_TYPES                                                                                        \
  typedef PoolRow<T, DIM, BITS, UNIT, VECTOR> Head;                                                       \
  typedef PoolRow<T, VALUES_IN_KEYS ? DIM : VALUE_DIM, BITS, VALUE_UNIT, VECTOR> ValueHead; \
  typedef typename Head::Item Item
