// The words of tiles_hopper.h: what Hopper's threads and matrix units need beyond cuda.h. Each is one PTX instruction.
// MLX declares the kernel: setmaxnreg asks for a known number of threads, which this adds to the declaration.
#undef __global__
#define __global__ __attribute__((global)) __launch_bounds__(384, 1)
#define KEEP_ROLLED _Pragma("unroll 1")
#define NO_SCORE __int_as_float(0xff800000)  // minus infinity
#define HOPPER __device__ __forceinline__

HOPPER uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
HOPPER void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
HOPPER void store(uint32_t to, uint4 x) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
HOPPER void store(uint32_t to, float x) { asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(x) : "memory"); }

// Barriers in shared memory. A phase ends with its last arrival; waiting for a parity returns once the phase of that
// parity has ended, for parity 1 at first at once.
HOPPER void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
HOPPER void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
HOPPER void arrive_after_copies(uint32_t barrier) {  // once this thread's copies so far have arrived
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
HOPPER void wait_for(uint32_t barrier, int parity) {
  uint32_t is_over;
  do {
    asm volatile("{ .reg .pred over; mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2; "
                 "selp.u32 %0, 1, 0, over; }"
                 : "=r"(is_over) : "r"(barrier), "r"(parity) : "memory");
  } while (!is_over);
}

// Numbered barriers of whole warps: `meet` arrives and waits, `signal` only arrives. count: threads that arrive.
HOPPER void meet(int number, int count) { asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(count) : "memory"); }
HOPPER void signal(int number, int count) { asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(count) : "memory"); }

template <int N> HOPPER void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> HOPPER void leave_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

// Products run asynchronously, in groups that end with `commit_products`. `wait_for_products<N>` returns when all but
// the last N groups are done; `pin` keeps the compiler from using their registers before.
HOPPER void show_shared_memory() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }  // to products
HOPPER void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
HOPPER void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> HOPPER void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
template <int N> HOPPER void pin(float (&registers)[N]) {
  UNROLL for (int i = 0; i < N; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
// A factor in shared memory: rows of 128 bytes, swizzled in groups of 8 rows. plane: bytes from one plane of such rows
// to the next, which matters where the elements of a row lie along the product's columns.
HOPPER uint64_t factor(uint32_t address, uint32_t plane) {
  return uint64_t(address >> 4 & 0x3fff) | uint64_t(plane >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
