// After cpp.h: shared memory that knows which threads have touched it since the last barrier. Threads run one after
// another here; on a GPU those of two warps would meet, in any order. A phase lasts from one barrier to the next.
#undef EACH_THREAD
#undef SHARED
#undef BARRIER
#undef BARRIER_DEVICE
#define EACH_THREAD for (int TID = 0; (this_thread = TID) < THREADS; ++TID)
#define SHARED(type, name, count) Watched<type> name[count]
#define BARRIER ++this_phase
#define BARRIER_DEVICE ++this_phase

static int this_thread = 0, this_phase = 1, num_races = 0;
extern "C" int races() { return num_races; }

struct Touch {
  int phase = 0, thread = 0;
  bool is_single = true;  // no other thread in the same phase

  bool meets() const { return phase == this_phase && !(is_single && thread == this_thread); }
  void note() {
    is_single = !meets();
    phase = this_phase;
    thread = this_thread;
  }
};

template <typename E>
struct Watched {
  E value;
  Touch read, written;

  operator E() {
    num_races += written.meets();
    read.note();
    return value;
  }
  void operator=(E changed) {
    num_races += read.meets() || written.meets();
    written.note();
    value = changed;
  }
};
