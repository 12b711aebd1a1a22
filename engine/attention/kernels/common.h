// Shared by the kernels. A lane keeps WIDTH elements of a head, loaded VECTOR at a time.
template <typename E, int N>
struct alignas(sizeof(E) * N) Pack {
  E at[N];
};
#define CHUNKS (WIDTH / VECTOR)
#define TEAMS (THREADS / LANES)  // a team of LANES threads takes a token
#define PLACE(lane, i) (((i) / VECTOR * LANES + (lane)) * VECTOR + (i) % VECTOR)
#define LOAD(array, index) (*(const DEVICE Pack<T, VECTOR>*)((array) + (index)))
#define STORE(array, index) (*(DEVICE Pack<T, VECTOR>*)((array) + (index)))
#define LOWEST -1e30f  // the start of a maximum; infinity would give NaN
#define LOG2(n) ((n) < 2 ? 0 : (n) < 4 ? 1 : (n) < 8 ? 2 : (n) < 16 ? 3 : (n) < 32 ? 4 : 5)

// How a head of a token lies in a pool; `row` counts such heads. Quantised (cache/packing.py says how): codes of
// BITS bits, then scale and offset of each UNIT elements. The second one, where BITS is 0: floats.
// A Piece is N elements as they are loaded; a job is a part of a row that one thread stores.
template <typename T, int DIM, int BITS, int UNIT, int N>
struct Row {
  typedef uint8_t Item;
  enum { CODE_BYTES = DIM * BITS / 8, BYTES = CODE_BYTES + DIM / UNIT * 2 * int(sizeof(T)), JOBS = DIM / UNIT };

  struct Piece {
    Pack<uint8_t, N * BITS / 8> codes;
    Pack<T, 2> fit;
    CALLABLE float at(int i) const {
      const int code = codes.at[i * BITS / 8] >> (i * BITS % 8) & ((1 << BITS) - 1);
      return float(code) * float(fit.at[0]) + float(fit.at[1]);
    }
  };

  CALLABLE static Piece load(const DEVICE Item* pool, INDEX row, int place) {
    Piece piece;
    const DEVICE Item* bytes = pool + row * BYTES;
    piece.codes = *(const DEVICE Pack<uint8_t, N * BITS / 8>*)(bytes + place * BITS / 8);
    piece.fit = *(const DEVICE Pack<T, 2>*)(bytes + CODE_BYTES + place / UNIT * 2 * int(sizeof(T)));
    return piece;
  }

  CALLABLE static void store(DEVICE Item* pool, INDEX row, const DEVICE T* head, int job) {
    const DEVICE T* from = head + job * UNIT;
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
      bytes[(job * UNIT + i) * BITS / 8] = uint8_t(byte);
    }
    DEVICE T* fit = (DEVICE T*)(bytes + CODE_BYTES) + 2 * job;
    fit[0] = scale;
    fit[1] = T(low);
  }
};

template <typename T, int DIM, int UNIT, int N>
struct Row<T, DIM, 0, UNIT, N> {
  typedef T Item;
  enum { JOBS = DIM };

  struct Piece {
    Pack<T, N> elements;
    CALLABLE float at(int i) const { return float(elements.at[i]); }
  };

  CALLABLE static Piece load(const DEVICE Item* pool, INDEX row, int place) {
    Piece piece;
    piece.elements = *(const DEVICE Pack<T, N>*)(pool + row * DIM + place);
    return piece;
  }

  CALLABLE static void store(DEVICE Item* pool, INDEX row, const DEVICE T* head, int job) {
    pool[row * DIM + job] = head[job];
  }
};
#define HEAD_TYPES typedef Row<T, DIM, BITS, UNIT, VECTOR> Head; typedef typename Head::Item Item
