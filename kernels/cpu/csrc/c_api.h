// The C ABI that library.py binds with ctypes: pointers, 64-bit integers and doubles only. Strides count elements.
// Callers promise what the op's record says (shapes, types, contiguous last dims); nothing is checked here.
#pragma once

#include <omp.h>
#include <sched.h>

#include "attention.h"
#include "layer.h"
#include "linear.h"
#include "moe.h"
#include "sampling.h"

#define QUIRE_EXPORT extern "C" __attribute__((visibility("default")))

// -- linear --------------------------------------------------------------------------------------------------------

QUIRE_EXPORT void quire_linear(const void* x, const void* weight, const void* bias, void* y, int64_t M, int64_t N,
                               int64_t K, int64_t ldx, int64_t ldw, int64_t ldy, int64_t x_type, int64_t w_type,
                               int64_t packed, int64_t threads) {
  const quire::Linear a{x, weight, bias, y, M, N, K, ldx, ldw, ldy, x_type, w_type, threads};
  quire::with_linear_types(a, [&](auto x_tag, auto w_tag) {
    using T = typename decltype(x_tag)::type;
    using W = typename decltype(w_tag)::type;
    packed ? quire::linear_packed<T, W>(a) : quire::linear_stream<T, W>(a);
  });
}

// -- attention and its cache ---------------------------------------------------------------------------------------

QUIRE_EXPORT void quire_paged_attention(const void* query, const void* key_cache, const void* value_cache, void* out,
                                        const int32_t* query_start, const int32_t* seq_lens, const int32_t* block_table,
                                        const float* sinks, int64_t q_type, int64_t kv_type, int64_t num_rows,
                                        int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, int64_t block_size,
                                        int64_t q_token, int64_t q_head, int64_t k_block, int64_t k_head,
                                        int64_t k_slot, int64_t v_block, int64_t v_head, int64_t v_slot,
                                        int64_t table_row, int64_t window, int64_t threads, double scale,
                                        double soft_cap) {
  const quire::Attention a{query,     key_cache,    value_cache, out,        query_start,
                           seq_lens,  block_table,  sinks,       q_type,     kv_type,
                           num_rows,  num_heads,    num_kv_heads, head_dim,  block_size,
                           q_token,   q_head,       k_block,     k_head,     k_slot,
                           v_block,   v_head,       v_slot,      table_row,  window,
                           threads,   static_cast<float>(scale), static_cast<float>(soft_cap)};
  quire::with_dtype(kv_type, [&](auto tag) { quire::paged_attention<typename decltype(tag)::type>(a); });
}

QUIRE_EXPORT void quire_kv_write(const void* key, const void* value, void* key_cache, void* value_cache,
                                 const int64_t* slots, int64_t type, int64_t kv_type, int64_t tokens, int64_t kv_heads,
                                 int64_t dim, int64_t block_size, int64_t k_token, int64_t k_head, int64_t v_token,
                                 int64_t v_head, int64_t kc_block, int64_t kc_head, int64_t kc_slot, int64_t vc_block,
                                 int64_t vc_head, int64_t vc_slot, int64_t threads) {
  quire::with_dtype(type, [&](auto tag) {
    quire::with_dtype(kv_type, [&](auto kv_tag) {
      using T = typename decltype(tag)::type;
      using KV = typename decltype(kv_tag)::type;
      const quire::CacheView<KV> keys{static_cast<KV*>(key_cache), kc_block, kc_head, kc_slot, block_size};
      const quire::CacheView<KV> values{static_cast<KV*>(value_cache), vc_block, vc_head, vc_slot, block_size};
      quire::kv_write(static_cast<const T*>(key), static_cast<const T*>(value), keys, values, slots, tokens, kv_heads,
                      dim, k_token, k_head, v_token, v_head, threads);
    });
  });
}

QUIRE_EXPORT void quire_qkv_rope_write(const void* qkv, const int64_t* positions, const float* cos_sin,
                                       const void* q_norm, const void* k_norm, void* key_cache, void* value_cache,
                                       const int64_t* slots, void* query, int64_t type, int64_t kv_type,
                                       int64_t norm_type, int64_t qkv_token, int64_t rotary_dim, int64_t tokens, int64_t heads,
                                       int64_t kv_heads, int64_t dim, int64_t block_size, int64_t kc_block,
                                       int64_t kc_head, int64_t kc_slot, int64_t vc_block, int64_t vc_head,
                                       int64_t vc_slot, int64_t threads, double eps) {
  quire::with_dtype(type, [&](auto tag) {
    quire::with_dtype(kv_type, [&](auto kv_tag) {
      using T = typename decltype(tag)::type;
      using KV = typename decltype(kv_tag)::type;
      const quire::CacheView<KV> keys{static_cast<KV*>(key_cache), kc_block, kc_head, kc_slot, block_size};
      const quire::CacheView<KV> values{static_cast<KV*>(value_cache), vc_block, vc_head, vc_slot, block_size};
      const quire::QkvRopeWrite<T> a{static_cast<const T*>(qkv),
                                     qkv_token,
                                     {positions, cos_sin, rotary_dim},
                                     quire::norm_as_float(q_norm, norm_type, dim, 2),
                                     quire::norm_as_float(k_norm, norm_type, dim, 3),
                                     static_cast<float>(eps),
                                     slots,
                                     static_cast<T*>(query),
                                     tokens,
                                     heads,
                                     kv_heads,
                                     dim};
      quire::qkv_rope_write(a, keys, values, threads);
    });
  });
}

QUIRE_EXPORT void quire_rope(void* query, void* key, const int64_t* positions, const float* cos_sin, int64_t type,
                             int64_t rotary_dim, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t dim,
                             int64_t q_token, int64_t q_head, int64_t k_token, int64_t k_head, int64_t threads) {
  quire::with_dtype(type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    quire::rope(static_cast<T*>(query), static_cast<T*>(key), quire::Rope{positions, cos_sin, rotary_dim}, tokens,
                heads, kv_heads, dim, q_token, q_head, k_token, k_head, threads);
  });
}

// -- norms, activations, embedding -----------------------------------------------------------------------------------

QUIRE_EXPORT void quire_rms_norm(const void* x, const void* weight, void* out, int64_t type, int64_t weight_type,
                                 int64_t rows, int64_t n, int64_t threads, double eps) {
  quire::with_dtype(type, [&](auto tag) {
    quire::with_dtype(weight_type, [&](auto weight_tag) {
      using T = typename decltype(tag)::type;
      using W = typename decltype(weight_tag)::type;
      quire::rms_norm(static_cast<const T*>(x), static_cast<const W*>(weight), static_cast<T*>(out), rows, n,
                      static_cast<float>(eps), threads);
    });
  });
}

QUIRE_EXPORT void quire_add_rms_norm(const void* x, const void* residual, const void* weight, void* out, void* sum,
                                     int64_t type, int64_t weight_type, int64_t rows, int64_t n, int64_t threads,
                                     double eps) {
  quire::with_dtype(type, [&](auto tag) {
    quire::with_dtype(weight_type, [&](auto weight_tag) {
      using T = typename decltype(tag)::type;
      using W = typename decltype(weight_tag)::type;
      quire::add_rms_norm(static_cast<const T*>(x), static_cast<const T*>(residual), static_cast<const W*>(weight),
                          static_cast<T*>(out), static_cast<T*>(sum), rows, n, static_cast<float>(eps), threads);
    });
  });
}

QUIRE_EXPORT void quire_gated(const void* x, void* out, int64_t activation, int64_t type, int64_t rows, int64_t n,
                              int64_t threads) {
  quire::with_dtype(type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(out);
    if (activation == quire::kSilu) return quire::gated<quire::Silu>(from, to, rows, n, threads);
    if (activation == quire::kGelu) return quire::gated<quire::Gelu>(from, to, rows, n, threads);
    quire::gated<quire::GeluTanh>(from, to, rows, n, threads);
  });
}

QUIRE_EXPORT void quire_embedding(const int64_t* ids, const void* weight, void* out, int64_t tokens, int64_t row_bytes,
                                  int64_t threads) {
  quire::embedding(ids, static_cast<const char*>(weight), static_cast<char*>(out), tokens, row_bytes, threads);
}

// -- mixture of experts ----------------------------------------------------------------------------------------------

QUIRE_EXPORT void quire_moe(const void* x, const float* shares, const int64_t* experts, const void* gate_up,
                            const void* down, void* out, int64_t type, int64_t tokens, int64_t top_k,
                            int64_t num_experts, int64_t hidden, int64_t inner, int64_t threads) {
  const quire::Moe a{x, shares, experts, gate_up, down, out, tokens, top_k, num_experts, hidden, inner, threads};
  quire::with_dtype(type, [&](auto tag) { quire::moe<typename decltype(tag)::type>(a); });
}

// -- choosing tokens -------------------------------------------------------------------------------------------------

QUIRE_EXPORT void quire_sample(const float* logits, const float* temperature, const int32_t* top_k, const float* top_p,
                               const float* min_p, const int64_t* seeds, const int64_t* positions, int64_t* tokens,
                               int64_t row_stride, int64_t rows, int64_t vocab_size, int64_t threads) {
  quire::sample({logits, row_stride, temperature, top_k, top_p, min_p, seeds, positions, tokens, rows, vocab_size},
                threads);
}

QUIRE_EXPORT void quire_apply_penalties(float* logits, const uint8_t* prompt_mask, const int32_t* output_counts,
                                        const float* presence, const float* frequency, const float* repetition,
                                        int64_t rows, int64_t vocab_size, int64_t threads) {
  quire::parallel_for(rows, threads, [&](int64_t row) {
    const int64_t first = row * vocab_size;
    quire::penalize_row(logits + first, prompt_mask + first, output_counts + first, vocab_size, presence[row],
                        frequency[row], repetition[row]);
  });
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

// Sum `bytes` of memory, to measure how fast it can be read.
QUIRE_EXPORT double quire_read_memory(const float* data, int64_t count, int64_t threads) {
  std::vector<float> totals(static_cast<size_t>(quire::ceil_div(count, int64_t{1} << 20)));
  quire::parallel_runs(count, int64_t{1} << 20, threads, [&](int64_t begin, int64_t end) {
    quire::Vec sums[8] = {};
    for (int64_t i = begin; i + 8 * quire::kWidth <= end; i += 8 * quire::kWidth)
      for (int v = 0; v < 8; ++v) sums[v] = sums[v] + quire::load(data + i + v * quire::kWidth);
    for (const quire::Vec& sum : sums) totals[begin >> 20] += quire::reduce_add(sum);
  });
  double total = 0;
  for (float part : totals) total += part;
  return total;
}
