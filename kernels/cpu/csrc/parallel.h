// Threads: the OpenMP pool of the process, which torch's own operators use too.
#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include "types.h"

namespace quire {

// Call `body(i)` for i in [0, count) on up to `threads` threads; each takes the next i when it is free.
template <class F>
inline void parallel_for(int64_t count, int64_t threads, F&& body) {
  const int team = static_cast<int>(min_of(threads, count));
  if (team <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(team)
  for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
       i = next.fetch_add(1, std::memory_order_relaxed))
    body(i);
}

// Split [0, count) into runs of about `grain` and call `body(begin, end)` for each; serial when one run is enough.
template <class F>
inline void parallel_runs(int64_t count, int64_t grain, int64_t threads, F&& body) {
  const int64_t run = max_of<int64_t>(1, grain);
  parallel_for(ceil_div(count, run), threads, [&](int64_t i) { body(i * run, min_of(count, (i + 1) * run)); });
}

// The same in order of memory: each thread has its own straight range of [0, count), from which it takes `grain` at a time;
// when that is used up it helps with the others'. Each calls `make()` once and then what that returns, as
// `body(begin, end)`: what a body holds is its thread's own.
template <class Make>
inline void parallel_workers(int64_t count, int64_t grain, int64_t threads, Make&& make) {
  constexpr int64_t kMaxTeam = 256;
  const int64_t runs = ceil_div(count, grain);
  const int64_t team = min_of(min_of(threads, runs), kMaxTeam);
  if (team <= 1) return make()(int64_t{0}, count);
  struct alignas(64) Range {
    std::atomic<int64_t> next;
    int64_t end;
  };
  Range ranges[kMaxTeam];
  for (int64_t t = 0; t < team; ++t) {
    ranges[t].next.store(runs * t / team, std::memory_order_relaxed);
    ranges[t].end = runs * (t + 1) / team;
  }
#pragma omp parallel num_threads(static_cast<int>(team))
  {
    auto body = make();
    for (int64_t i = 0; i < team; ++i) {
      Range& range = ranges[(omp_get_thread_num() + i) % team];
      const int64_t spare = i > 0;  // the last run its owner begins before another has what it takes
      while (range.next.load(std::memory_order_relaxed) + spare < range.end) {
        const int64_t run = range.next.fetch_add(1, std::memory_order_relaxed);
        if (run < range.end) body(run * grain, min_of(count, (run + 1) * grain));
      }
    }
  }
}

// The same for a body that holds nothing.
template <class F>
inline void parallel_ranges(int64_t count, int64_t grain, int64_t threads, F&& body) {
  parallel_workers(count, grain, threads, [&] { return [&](int64_t begin, int64_t end) { body(begin, end); }; });
}

// How many threads pay for themselves: each should get some 4 us of work, at 16 bytes or 64 operations a nanosecond.
inline int64_t useful_threads(int64_t bytes, int64_t flops, int64_t threads) {
  return max_of<int64_t>(1, min_of(threads, bytes / 65536 + flops / 262144));
}

// Elements that one thread should have at least, so that waking another pays.
constexpr int64_t kGrainElements = 16384;

// Memory of one thread that grows and is kept; `slot` tells apart the buffers that a kernel holds at once.
template <class T>
inline T* scratch(int slot, int64_t count) {
  static thread_local std::vector<T> buffers[6];
  std::vector<T>& buffer = buffers[slot];
  if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(static_cast<size_t>(count));
  return buffer.data();
}

}  // namespace quire
