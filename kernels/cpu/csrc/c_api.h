// The C ABI that library.py calls through ctypes: every kernel takes one pointer to its arguments, a struct of pointers,
// 64-bit integers and doubles in that order (packing 28 of them takes Python 0.5 us, converting them one by one 6 us).
// Strides count elements. Callers promise what the op's record says: shapes, types, contiguous last dims.
#pragma once

#include <omp.h>
#include <sched.h>

#include "attention.h"
#include "fused.h"
#include "layer.h"
#include "linear.h"
#include "moe.h"
#include "sampling.h"
#include "step.h"

#define QUIRE_EXPORT extern "C" __attribute__((visibility("default")))

// A kernel, and the size of its arguments, which library.py compares with what it packs.
#define QUIRE_KERNEL(name, Arguments)                                    \
  QUIRE_EXPORT int64_t quire_##name##_bytes() { return sizeof(Arguments); } \
  QUIRE_EXPORT void quire_##name(const Arguments* a)

namespace quire {

// -- dense ---------------------------------------------------------------------------------------------------------

QUIRE_KERNEL(linear, Linear) {
  if (a->form == kPanels)
    return with_dtype(a->x_type, [&](auto tag) { linear_panels<typename decltype(tag)::type>(*a); });
  with_linear_types(*a, [&](auto x_tag, auto w_tag) {
    using T = typename decltype(x_tag)::type;
    using W = typename decltype(w_tag)::type;
    a->form == kWiden ? linear_widen<T, W>(*a) : linear_stream<T, W>(*a);
  });
}

QUIRE_KERNEL(pack_panels, PackPanels) {
  with_dtype(a->type, [&](auto tag) { pack_panels<typename decltype(tag)::type>(*a); });
}

// Elements of K that lie together in a panel of this type; 0: this shape has no panels.
QUIRE_EXPORT int64_t quire_panel_unit(int64_t type, int64_t N, int64_t K) {
  int64_t unit = 0;
  with_dtype(type, [&](auto tag) { unit = panel_unit<typename decltype(tag)::type>(N, K); });
  return unit;
}

QUIRE_KERNEL(norm_linear, NormLinear) {
  with_dtype(a->type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    a->form == kPanels ? norm_linear_panels<T>(*a) : norm_linear_stream<T>(*a);
  });
}

QUIRE_KERNEL(moe, Moe) {
  with_dtype(a->type, [&](auto tag) { moe<typename decltype(tag)::type>(*a); });
}

struct Embedding {
  const int64_t* ids;
  const char* weight;
  char* out;
  int64_t tokens, row_bytes, threads;
};

QUIRE_KERNEL(embedding, Embedding) { embedding(a->ids, a->weight, a->out, a->tokens, a->row_bytes, a->threads); }

// -- attention and its cache ---------------------------------------------------------------------------------------

QUIRE_KERNEL(paged_attention, Attention) {
  with_dtype(a->kv_type, [&](auto tag) { paged_attention<typename decltype(tag)::type>(*a); });
}

QUIRE_KERNEL(kv_write, KvWrite) {
  with_dtypes(a->type, a->cache.type, [&](auto tag, auto kv_tag) {
    kv_write<typename decltype(tag)::type, typename decltype(kv_tag)::type>(*a);
  });
}

QUIRE_KERNEL(rope, Rope) {
  with_dtype(a->type, [&](auto tag) { rope<typename decltype(tag)::type>(*a); });
}

QUIRE_KERNEL(qkv_rope_write, QkvRopeWrite) {
  with_dtypes(a->type, a->cache.type, [&](auto tag, auto kv_tag) {
    qkv_rope_write<typename decltype(tag)::type, typename decltype(kv_tag)::type>(*a);
  });
}

// -- norms and activations -----------------------------------------------------------------------------------------

QUIRE_KERNEL(rms_norm, RmsNorm) {
  with_dtypes(a->type, a->weight_type, [&](auto tag, auto weight_tag) {
    rms_norm<typename decltype(tag)::type, typename decltype(weight_tag)::type>(*a);
  });
}

QUIRE_KERNEL(add_rms_norm, AddRmsNorm) {
  with_dtypes(a->type, a->weight_type, [&](auto tag, auto weight_tag) {
    add_rms_norm<typename decltype(tag)::type, typename decltype(weight_tag)::type>(*a);
  });
}

QUIRE_KERNEL(gated, Gated) {
  with_dtype(a->type, [&](auto tag) { gated<typename decltype(tag)::type>(*a); });
}

// -- a step's beginning and end, choosing tokens -----------------------------------------------------------------------------------------------

QUIRE_KERNEL(sample, Sample) { sample(*a); }

QUIRE_KERNEL(draw_tokens, DrawTokens) { draw_tokens(*a); }

QUIRE_KERNEL(gather_step, GatherStep) { gather_step(*a); }

QUIRE_KERNEL(select_rows, SelectRows) {
  with_dtype(a->type, [&](auto tag) { select_rows<typename decltype(tag)::type>(*a); });
}

QUIRE_KERNEL(apply_penalties, Penalties) { apply_penalties(*a); }

// -- replaying ----------------------------------------------------------------------------------------------------

struct KernelCall {
  void (*kernel)(const void* arguments);
  const void* arguments;
};

// Make calls of the kernels above again, one after the other.
QUIRE_EXPORT void quire_replay(const KernelCall* calls, int64_t count) {
  for (int64_t i = 0; i < count; ++i) calls[i].kernel(calls[i].arguments);
}

// -- the machine ---------------------------------------------------------------------------------------------------

// The compiler and its version.
QUIRE_EXPORT const char* quire_compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

// Bind thread i of the pool to cpus[i]. Return how many could be bound.
QUIRE_EXPORT int64_t quire_pin_threads(const int64_t* cpus, int64_t count) {
  int64_t bound = 0;
#pragma omp parallel num_threads(static_cast<int>(count)) reduction(+ : bound)
  {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<int>(cpus[omp_get_thread_num()]), &set);
    bound += sched_setaffinity(0, sizeof(set), &set) == 0;
  }
  return bound;
}

// Sum floats, to measure how fast memory can be read.
QUIRE_EXPORT double quire_read_memory(const float* data, int64_t count, int64_t threads) {
  constexpr int64_t kRun = int64_t{1} << 18;
  std::vector<float> totals(static_cast<size_t>(ceil_div(count, kRun)));
  parallel_runs(count, kRun, threads, [&](int64_t begin, int64_t end) {
    Vec sums[8] = {};
    for (int64_t i = begin; i + 8 * kWidth <= end; i += 8 * kWidth)
      for (int v = 0; v < 8; ++v) sums[v] = sums[v] + load(data + i + v * kWidth);
    for (const Vec& sum : sums) totals[begin / kRun] += reduce_add(sum);
  });
  double total = 0;
  for (float part : totals) total += part;
  return total;
}

}  // namespace quire
