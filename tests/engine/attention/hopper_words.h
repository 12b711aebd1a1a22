// The words of hopper.h and of CUDA in C++, for tiles_hopper.h: each thread of a group is a thread of the process, and
// matrix units compute at once what they are given. It follows cpp.h and common.h. As on a GPU, a warp's threads meet at
// each product. A barrier that is not met in a minute ends the process, as does an arrival too many.
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#undef END_GROUP
#define END_GROUP return
#undef BARRIER
#define BARRIER meet(0, 384)
#undef MAKE_PAIR
#define MAKE_PAIR(low, high) make_pair(T(low), T(high))
#define KEEP_ROLLED
#define NO_SCORE (-INFINITY)
#define __shared__
struct uint4 { uint32_t x, y, z, w; };
struct float2 { float x, y; };

static void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

struct Meeting {  // a barrier; `phase` counts the phases that have ended
  std::mutex lock;
  std::condition_variable ended;
  int expected = 0, arrived = 0, phase = 0;
  void arrive(int count) {
    const std::lock_guard<std::mutex> guard(lock);
    if (++arrived > count) fail("too many arrivals");
    if (arrived < count) return;
    arrived = 0;
    ++phase;
    ended.notify_all();
  }
  void wait(int wanted) {
    std::unique_lock<std::mutex> guard(lock);
    if (!ended.wait_for(guard, std::chrono::minutes(1), [&] { return phase >= wanted; })) fail("stuck");
  }
  int phases() {
    const std::lock_guard<std::mutex> guard(lock);
    return phase;
  }
  void meet(int count) {
    const int wanted = phases() + 1;
    arrive(count);
    wait(wanted);
  }
};

constexpr int MEMORY = 230 * 1024, OFFSET = 512;  // shared memory need not begin at a multiple of 1024
alignas(1024) unsigned char workspace_bytes[MEMORY];
static Meeting numbered[16], warps[12], barriers[MEMORY / 8];
static uint32_t exchanged[12][32][4];
static thread_local int tid;
static std::mutex atomics;

static unsigned char* memory(uint32_t address) {
  if (address < OFFSET || address >= OFFSET + MEMORY) fail("outside of shared memory");
  return workspace_bytes + address - OFFSET;
}
static uint32_t shared_address(const void* p) { return uint32_t((const unsigned char*)p - workspace_bytes) + OFFSET; }
static void copy_async(uint32_t to, const void* from) { std::memcpy(memory(to), from, 16); }
static void store(uint32_t to, uint4 x) { std::memcpy(memory(to), &x, 16); }
static void store(uint32_t, float) {}
static void meet(int number, int count) { numbered[number].meet(count); }
static void signal(int number, int count) { numbered[number].arrive(count); }
static void meet_warp() { warps[tid / 32].meet(32); }
static void init_barrier(uint32_t barrier, int arrivals) { barriers[barrier / 8].expected = arrivals; }
static void arrive(uint32_t barrier) { barriers[barrier / 8].arrive(barriers[barrier / 8].expected); }
static void arrive_after_copies(uint32_t barrier) { arrive(barrier); }
static void wait_for(uint32_t barrier, int parity) {
  Meeting& it = barriers[barrier / 8];
  const int phase = it.phases();
  if (phase % 2 == parity) it.wait(phase + 1);
}
template <int N> void take_registers() {}
template <int N> void leave_registers() {}
static void show_shared_memory() {}
static void begin_products() {}
static void commit_products() {}
template <int N> void wait_for_products() { meet_warp(); }
template <int N> void pin(float (&)[N]) {}
static uint64_t factor(uint32_t address, uint32_t plane) { return uint64_t(plane) << 32 | address >> 4; }

template <typename T> uint32_t make_pair(T low, T high) {
  uint16_t halves[2];
  std::memcpy(&halves[0], &low, 2);
  std::memcpy(&halves[1], &high, 2);
  return halves[0] | uint32_t(halves[1]) << 16;
}
static int atomicMin(int* p, int x) {
  const std::lock_guard<std::mutex> guard(atomics);
  const int old = *p;
  if (x < old) *p = x;
  return old;
}
static int atomicMax(int* p, int x) {
  const std::lock_guard<std::mutex> guard(atomics);
  const int old = *p;
  if (x > old) *p = x;
  return old;
}
static float __shfl_xor_sync(unsigned, float x, int other) {
  const int warp = tid / 32, lane = tid % 32;
  std::memcpy(&exchanged[warp][lane][0], &x, 4);
  meet_warp();
  std::memcpy(&x, &exchanged[warp][lane ^ other][0], 4);
  meet_warp();
  return x;
}

// An element of a factor: `byte` bytes into its plane, in the order in which rows of 128 bytes are swizzled.
template <typename T> float element(uint64_t factor, int plane, int byte) {
  uint32_t address = (uint32_t(factor) << 4) + plane * uint32_t(factor >> 32) + byte;
  address ^= (address >> 7 & 7) << 4;
  T x;
  std::memcpy(&x, memory(address), 2);
  return float(x);
}
template <typename T, int N> void multiply_scores(float (&sum)[N], uint64_t left, uint64_t right, int adds) {
  const int lane = tid % 32, warp = tid / 32 % 4;
  for (int i = 0; i < N; ++i) {
    const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    float total = adds ? sum[i] : 0;
    for (int k = 0; k < 16; ++k) {
      total += element<T>(left, 0, row * 128 + k * 2) * element<T>(right, 0, column * 128 + k * 2);
    }
    sum[i] = total;
  }
}
template <typename T, int N> void multiply_sums(float (&sum)[N], const uint32_t (&left)[4], uint64_t right, int adds) {
  const int lane = tid % 32, warp = tid / 32;
  std::memcpy(exchanged[warp][lane], left, 16);
  meet_warp();
  float weight[2][16];
  for (int r = 0; r < 2; ++r) {
    for (int k = 0; k < 16; ++k) {
      const uint32_t pair = exchanged[warp][lane / 4 * 4 + k % 8 / 2][k / 8 * 2 + r];
      const uint16_t half = k % 2 ? pair >> 16 : pair & 0xffff;
      T x;
      std::memcpy(&x, &half, 2);
      weight[r][k] = float(x);
    }
  }
  for (int i = 0; i < N; ++i) {
    const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    float total = adds ? sum[i] : 0;
    for (int k = 0; k < 16; ++k) {
      total += weight[i / 2 % 2][k] * element<T>(right, column / 64, k * 128 + column % 64 * 2);
    }
    sum[i] = total;
  }
  meet_warp();
}
#define multiply_scores multiply_scores<T>
#define multiply_sums multiply_sums<T>

// Runs a thread group; `run` takes the index of the thread.
template <typename Run> void run_group(Run run) {
  std::memset(workspace_bytes, 0xff, MEMORY);  // NaN
  for (auto* meetings : {numbered, barriers}) {
    const int count = meetings == numbered ? 16 : MEMORY / 8;
    for (int i = 0; i < count; ++i) meetings[i].arrived = meetings[i].phase = 0;
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 384; ++i) {
    threads.emplace_back([=] {
      tid = i;
      run(i);
    });
  }
  for (auto& thread : threads) thread.join();
}
