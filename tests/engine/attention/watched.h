// After cpp.h: shared memory that knows which threads have touched it since the last barrier. Threads take turns here;
// on a GPU those of two warps would meet, in whatever order.
#undef EACH_THREAD
#undef SHARED
#undef BARRIER
#undef BARRIER_DEVICE
#define EACH_THREAD for (int TID = 0; (this_thread = TID) < THREADS; ++TID)
#define SHARED(type, name, count) Watched<type> name[count]
#define BARRIER ++this_turn
#define BARRIER_DEVICE ++this_turn

static int this_thread = 0, this_turn = 1, num_races = 0;
extern "C" int races() { return num_races; }

struct Touch {
  int turn = 0, thread = 0;
  bool is_single = true;  // no other thread in the same turn

  bool meets() const { return turn == this_turn && !(is_single && thread == this_thread); }
  void note() {
    is_single = !meets();
    turn = this_turn;
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
