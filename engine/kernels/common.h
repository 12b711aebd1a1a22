// Shared by the kernels. A lane keeps WIDTH elements of a head, loaded VECTOR at a time.
template <typename E, int N>
struct alignas(sizeof(E) * N) Pack {
  E at[N];
};
#define CHUNKS (WIDTH / VECTOR)
#define TEAMS (THREADS / LANES)  // a team of LANES threads takes a token
#define PLACE(lane, i) (((i) / VECTOR * LANES + (lane)) * VECTOR + (i) % VECTOR)
#define LOAD(pool, index) (*(const DEVICE Pack<T, VECTOR>*)((pool) + (index)))
#define STORE(pool, index) (*(DEVICE Pack<T, VECTOR>*)((pool) + (index)))
#define LOWEST -1e30f  // the start of a maximum; infinity would give NaN
#define LOG2(n) ((n) < 2 ? 0 : (n) < 4 ? 1 : (n) < 8 ? 2 : (n) < 16 ? 3 : (n) < 32 ? 4 : 5)
