// The residual sum, its norm, and the projection after it, with its activation: one call and one parallel region where a
// decoder layer would need three.
#pragma once

#include "layer.h"
#include "linear.h"

namespace quire {

struct NormLinear {
  const void* x;        // [M, K]
  void* residual;       // [M, K], becomes residual + x; null: x alone is normed
  const void* norm_weight;
  const void* weight;   // [N, K]
  const void* bias;     // or null
  void* y;              // [M, N], or [M, N / 2] with an activation
  int64_t type, norm_type;
  int64_t M, N, K;
  int64_t activation;   // Activation, or negative: none
  int64_t form;         // kStream, for few rows, or kPanels
  int64_t threads;
  double eps;
};

namespace detail {

// What is normed in row m: residual + x, where there is a residual, which becomes that.
template <class T>
inline const T* sum_row(const NormLinear& a, int64_t m) {
  const T* row = static_cast<const T*>(a.x) + m * a.K;
  if (!a.residual) return row;
  T* sum = static_cast<T*>(a.residual) + m * a.K;
  add_row(row, sum, sum, a.K);
  return sum;
}

// Write the norm of `row`, whose rms_scale is given.
template <class T, class X>
inline void write_norm(const NormLinear& a, const T* row, float scale, X* out) {
  with_dtype(a.norm_type, [&](auto tag) {
    scale_row(row, scale, static_cast<const typename decltype(tag)::type*>(a.norm_weight), out, a.K);
  });
}

// Add x to the residual and return the rms_scale of every row, in scratch memory of the calling thread.
template <class T>
inline const float* sum_and_scale(const NormLinear& a) {
  float* scales = scratch<float>(3, a.M);
  const int64_t threads = useful_threads(2 * a.M * a.K * static_cast<int64_t>(sizeof(T)), 0, a.threads);
  parallel_ranges(a.M, ceil_div(a.M, threads), threads, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      scales[m] = rms_scale(sum_row<T>(a, m), a.K, static_cast<float>(a.eps));
  });
  return scales;
}

template <class P, class T>
inline void norm_gated(const NormLinear& a, const typename P::X* rows) {
  const int64_t inner = a.N / 2;
  const auto* weight = static_cast<const typename P::Wt*>(a.weight);
  const T* bias = static_cast<const T*>(a.bias);
  const int64_t run = rows_per_run(a.K, 2 * sizeof(*weight), inner, a.threads);
  const int64_t size = a.N * a.K;
  const int64_t threads = useful_threads(size * static_cast<int64_t>(sizeof(*weight)), 2 * a.M * size, a.threads);
  parallel_runs(inner, run, threads, [&](int64_t begin, int64_t end) {
    stream_gated<P>(rows, a.M, a.K, weight + begin * a.K, weight + (inner + begin) * a.K, end - begin,
                    bias ? bias + begin : nullptr, bias ? bias + inner + begin : nullptr, a.activation,
                    static_cast<T*>(a.y) + begin, inner);
  });
}

}  // namespace detail

template <class T>
inline void norm_linear_panels(const NormLinear& a) {
  using P = StreamProduct<T>;
  const float* scales = detail::sum_and_scale<T>(a);
  const T* summed = static_cast<const T*>(a.residual ? a.residual : a.x);
  const auto normed = [&](int64_t m, typename P::X* buffer) -> const typename P::X* {
    detail::write_norm(a, summed + m * a.K, scales[m], buffer);
    return buffer;
  };
  const T* bias = static_cast<const T*>(a.bias);
  T* y = static_cast<T*>(a.y);
  if (a.activation < 0)
    return detail::panel_product<P>(a.M, a.weight, a.N, a.K, a.threads, normed, [&](int64_t m, int64_t panel, float* sums) {
      const int64_t n = panel * kPanel;
      detail::write_row(sums, bias ? bias + n : nullptr, y + m * a.N + n, kPanel);
    });
  const int64_t inner = a.N / 2;
  with_activation(a.activation, [&](auto tag) {
    using A = typename decltype(tag)::type;
    detail::panel_product<P>(a.M, a.weight, a.N, a.K, a.threads, normed, [&](int64_t m, int64_t panel, float* sums) {
      const int64_t n = panel * kWidth;
      detail::write_gated<A>(sums, bias ? bias + n : nullptr, bias ? bias + inner + n : nullptr, y + m * inner + n);
    });
  });
}

template <class T>
inline void norm_linear_stream(const NormLinear& a) {
  using P = StreamProduct<T>;
  auto* rows = scratch<typename P::X>(0, a.M * a.K);
  for (int64_t m = 0; m < a.M; ++m) {
    const T* row = detail::sum_row<T>(a, m);
    detail::write_norm(a, row, rms_scale(row, a.K, static_cast<float>(a.eps)), rows + m * a.K);
  }
  if (a.activation >= 0) return detail::norm_gated<P, T>(a, rows);
  const Linear linear{nullptr, a.weight, a.bias, a.y, a.M, a.N, a.K, a.K, a.K, a.N, a.type, a.type, kStream, a.threads};
  detail::stream<P, T>(linear, rows, a.K);
}

}  // namespace quire
