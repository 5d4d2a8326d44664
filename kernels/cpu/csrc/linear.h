// y = x W^T + b with W as the checkpoint has it, [N, K]: never a second copy, so embeddings can stay tied to it.
//
// Few rows of x: W is streamed once, in dot form (`linear_stream`). Many rows: panels of W are transposed and widened to
// float while they are multiplied (`linear_packed`), which costs little beside the products.
#pragma once

#include "layer.h"
#include "parallel.h"
#include "tiles.h"

namespace quire {

struct Linear {
  const void* x;
  const void* weight;
  const void* bias;  // in the type of x, or null
  void* y;
  int64_t M, N, K;
  int64_t ldx, ldw, ldy;
  int64_t x_type, w_type;
  int64_t packed;  // whether x has many rows
  int64_t threads;
};

namespace detail {

// y = sums + bias; y may be sums.
template <class T, class Y>
inline void write_row(const float* sums, const T* bias, Y* y, int64_t n) {
  for_vectors(
      n, [&](int64_t i) { store(y + i, bias ? load(sums + i) + load(bias + i) : load(sums + i)); },
      [&](int64_t i, int64_t count) {
        const Vec sum = load_first(sums + i, count);
        store_first(y + i, bias ? sum + load_first(bias + i, count) : sum, count);
      });
}

// How far ahead of the rows in use memory is asked for: one block of rows at least. So much fits the first-level cache
// beside a few rows of x; what is farther is brought to the second level.
constexpr int64_t kLeadBytes = 16384;

// sums[m * ld + n] = x[m] . w[n] for all m of M and `count` rows of W.
template <class P>
inline void stream_rows(const typename P::X* x, int64_t ldx, int64_t M, const typename P::Wt* w, int64_t ldw,
                        int64_t count, int64_t K, float* sums, int64_t ld) {
  const int64_t row_bytes = ldw * static_cast<int64_t>(sizeof(*w));
  const int64_t lead = max_of(kLeadBytes, 4 * row_bytes);
  for_blocks_of_four(count, [&](auto block, int64_t n0) {
    constexpr int N = decltype(block)::value;
    const typename P::Wt* rows[N];
    for (int n = 0; n < N; ++n) rows[n] = w + (n0 + n) * ldw;
    Ahead ahead;
    if ((n0 + 4) * row_bytes + lead <= count * row_bytes)
      ahead = {reinterpret_cast<const char*>(rows[0]) + lead, lead > kLeadBytes || M > 4};
    for_blocks_of_four(M, [&](auto rows_of_x, int64_t m0) {
      constexpr int R = decltype(rows_of_x)::value;
      const auto tile = dot_tile<R, N, P>(x + m0 * ldx, ldx, rows, K, m0 == 0 ? ahead : Ahead{});
      for (int m = 0; m < R; ++m)
        for (int n = 0; n < N; ++n) sums[(m0 + m) * ld + n0 + n] = tile.at[m][n];
    });
  });
}

// out[m, 0 … count) = f(x[m] . gate + bias) * (x[m] . up + bias) for `count` rows of both halves of a weight.
template <class P, class Out, class T>
inline void stream_gated(const typename P::X* x, int64_t M, int64_t K, const typename P::Wt* gate,
                         const typename P::Wt* up, int64_t count, const T* gate_bias, const T* up_bias,
                         int64_t activation, Out* out, int64_t ldo) {
  float* sums = scratch<float>(4, M * 2 * count);
  stream_rows<P>(x, K, M, gate, K, count, K, sums, 2 * count);
  stream_rows<P>(x, K, M, up, K, count, K, sums + count, 2 * count);
  for (int64_t m = 0; m < M; ++m) {
    float* row = sums + m * 2 * count;
    if (gate_bias) write_row(row, gate_bias, row, count), write_row(row + count, up_bias, row + count, count);
    with_activation(activation,
                    [&](auto tag) { gated_row<typename decltype(tag)::type>(row, out + m * ldo, count); });
  }
}

// The product that an element type is streamed with here: pairs of bf16 where the processor multiplies them.
#if defined(__AVX512BF16__)
template <class T>
using StreamProduct = std::conditional_t<std::is_same_v<T, bf16>, PairProduct, FloatProduct<T>>;
#else
template <class T>
using StreamProduct = FloatProduct<T>;
#endif

// Rows of W that one thread takes at a time: long runs stream well, but each thread should get a few of them.
inline int64_t rows_per_run(int64_t K, int64_t element_bytes, int64_t N, int64_t threads) {
  const int64_t long_run = ceil_div(262144, max_of<int64_t>(1, K * element_bytes));
  return round_up(max_of<int64_t>(1, min_of(long_run, ceil_div(N, 4 * threads))), 4);
}

template <class P, class T>
inline void stream(const Linear& a, const typename P::X* x, int64_t ldx) {
  using W = typename P::Wt;
  const int64_t run = rows_per_run(a.K, sizeof(W), a.N, a.threads);
  const int64_t size = a.N * a.K;
  const int64_t threads = useful_threads(size * static_cast<int64_t>(sizeof(W)), 2 * a.M * size, a.threads);
  parallel_runs(a.N, run, threads, [&](int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    float* sums = scratch<float>(1, a.M * count);
    stream_rows<P>(x, ldx, a.M, static_cast<const W*>(a.weight) + begin * a.ldw, a.ldw, count, a.K, sums, count);
    const T* bias = a.bias ? static_cast<const T*>(a.bias) + begin : nullptr;
    for (int64_t m = 0; m < a.M; ++m)
      write_row(sums + m * count, bias, static_cast<T*>(a.y) + m * a.ldy + begin, count);
  });
}

// x as rows of floats: x itself if it is that, else a converted copy in scratch memory of the calling thread.
template <class T>
inline const float* rows_as_float(const T* x, int64_t rows, int64_t ldx, int64_t K, int64_t* ld) {
  *ld = K;
  float* copy = scratch<float>(0, rows * K);
  for (int64_t m = 0; m < rows; ++m) convert(x + m * ldx, copy + m * K, K);
  return copy;
}

template <>
inline const float* rows_as_float<float>(const float* x, int64_t, int64_t ldx, int64_t, int64_t* ld) {
  *ld = ldx;
  return x;
}

}  // namespace detail

template <class T, class W>
inline void linear_stream(const Linear& a) {
  const T* x = static_cast<const T*>(a.x);
  if constexpr (std::is_same_v<T, W> && std::is_same_v<typename detail::StreamProduct<T>::X, T>)
    return detail::stream<detail::StreamProduct<T>, T>(a, x, a.ldx);
  int64_t ldx;
  const float* rows = detail::rows_as_float(x, a.M, a.ldx, a.K, &ldx);
  detail::stream<FloatProduct<W>, T>(a, rows, ldx);
}

namespace detail {

constexpr int64_t kPanel = kTileVecs * kWidth;  // columns of y that are computed together
constexpr int64_t kDepth = 256;                 // summed elements of a packed panel: 256 x 32 floats fill 32 KB

// x as panels of R rows, k-major: panel p holds x[p * R + r][k] at (p * K + k) * R + r; missing rows are zeros.
template <int R, class T>
inline float* pack_x(const Linear& a, std::vector<float>& packed) {
  const int64_t panels = ceil_div(a.M, R);
  packed.resize(static_cast<size_t>(panels * R * a.K));
  const T* x = static_cast<const T*>(a.x);
  parallel_for(panels, a.threads, [&](int64_t p) {
    float* panel = packed.data() + p * R * a.K;
    const int64_t rows = min_of<int64_t>(R, a.M - p * R);
    for (int64_t k = 0; k < a.K; ++k)
      for (int64_t r = 0; r < R; ++r) panel[k * R + r] = r < rows ? to_float(x[(p * R + r) * a.ldx + k]) : 0.0f;
  });
  return packed.data();
}

template <class W>
inline void pack_weight(const Linear& a, int64_t n0, int64_t k0, int64_t depth, float* packed) {
  const W* w = static_cast<const W*>(a.weight);
  for (int64_t v = 0; v < kTileVecs; ++v) {
    const int64_t first = n0 + v * kWidth;
    const int64_t count = max_of<int64_t>(0, min_of<int64_t>(kWidth, a.N - first));
    const auto row = [&](int64_t r) { return w + (first + r) * a.ldw + k0; };
    pack_transposed<W>(row, count, depth, packed + v * kWidth, kPanel);
  }
}

// All rows of y, columns [n0, n0 + kPanel).
template <int R, class T, class W>
inline void packed_panel(const Linear& a, const float* x, int64_t n0) {
  const int64_t panels = ceil_div(a.M, R);
  float* weight = scratch<float>(1, kDepth * kPanel);
  float* sums = scratch<float>(2, panels * R * kPanel);
  std::memset(sums, 0, static_cast<size_t>(panels * R * kPanel) * sizeof(float));
  for (int64_t k0 = 0; k0 < a.K; k0 += kDepth) {
    const int64_t depth = min_of(kDepth, a.K - k0);
    pack_weight<W>(a, n0, k0, depth, weight);
    for (int64_t p = 0; p < panels; ++p)
      outer_tile<R, kTileVecs>(x + (p * a.K + k0) * R, 1, R, PackedRows{weight, kPanel}, 0, depth,
                               sums + p * R * kPanel, kPanel);
  }
  const T* bias = a.bias ? static_cast<const T*>(a.bias) + n0 : nullptr;
  for (int64_t m = 0; m < a.M; ++m)
    write_row(sums + m * kPanel, bias, static_cast<T*>(a.y) + m * a.ldy + n0, min_of(kPanel, a.N - n0));
}

template <int R, class T, class W>
inline void packed_product(const Linear& a) {
  static thread_local std::vector<float> packed;
  const float* x = pack_x<R, T>(a, packed);
  parallel_for(ceil_div(a.N, kPanel), a.threads,
               [&](int64_t panel) { packed_panel<R, T, W>(a, x, panel * kPanel); });
}

}  // namespace detail

// Panels of the height that leaves fewer rows empty.
template <class T, class W>
inline void linear_packed(const Linear& a) {
  if (round_up(a.M, kTileRows) <= round_up(a.M, kShortTileRows)) return detail::packed_product<kTileRows, T, W>(a);
  detail::packed_product<kShortTileRows, T, W>(a);
}

// Call `body(Type<T>{}, Type<W>{})` for the type of x and of W: the same, or float x with narrower W.
template <class F>
inline void with_linear_types(const Linear& a, F&& body) {
  with_dtype(a.w_type, [&](auto w) {
    if (a.x_type == a.w_type) return body(w, w);
    body(Type<float>{}, w);
  });
}

}  // namespace quire
