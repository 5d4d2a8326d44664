// y = x W^T + b, for W [N, K] in one of two forms.
//
// In panels (see panels.h), packed once at load time: `linear_panels`, for any number of rows. As the checkpoint has it,
// which is how a weight must stay that embeddings are tied to: few rows of x stream it once, in dot form
// (`linear_stream`); for many rows each panel is made just before it is multiplied (`linear_widen`).
#pragma once

#include "layer.h"
#include "panels.h"
#include "parallel.h"
#include "tiles.h"

namespace quire {

// How to go about it; keep in step with kernels.py.
enum LinearForm : int64_t { kStream = 0, kWiden = 1, kPanels = 2 };

struct Linear {
  const void* x;
  const void* weight;
  const void* bias;  // in the type of x, or null
  void* y;
  int64_t M, N, K;
  int64_t ldx, ldw, ldy;
  int64_t x_type, w_type;
  int64_t form;  // LinearForm
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

// How far ahead of the rows in use memory is asked for: one block of rows at least, and past the last row, for what
// follows is mostly read next. So much fits the first-level cache beside a few rows of x; what is farther is brought to
// the second level.
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
    const Ahead ahead{reinterpret_cast<const char*>(rows[0]) + lead, lead > kLeadBytes || M > 4};
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
  parallel_ranges(a.N, run, threads, [&](int64_t begin, int64_t end) {
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
  if constexpr (std::is_same_v<T, W> && std::is_same_v<typename StreamProduct<T>::X, T>)
    return detail::stream<StreamProduct<T>, T>(a, x, a.ldx);
  int64_t ldx;
  const float* rows = detail::rows_as_float(x, a.M, a.ldx, a.K, &ldx);
  detail::stream<FloatProduct<W>, T>(a, rows, ldx);
}

namespace detail {

// How product P gets rows of x: as they are if the types are equal, else converted.
template <class P, class T>
inline auto rows_of(const Linear& a) {
  return [&a](int64_t m, typename P::X* buffer) -> const typename P::X* {
    const T* row = static_cast<const T*>(a.x) + m * a.ldx;
    if constexpr (std::is_same_v<T, typename P::X>) return row;
    convert(row, buffer, a.K);
    return buffer;
  };
}

// Rows [n0, n0 + kPanel) of W as a panel for product P: of pairs as they are, else of floats. Rows that W does not have
// become zeros.
template <class P, class W>
inline void make_panel(const Linear& a, int64_t n0, typename P::Wt* panel) {
  using Unit = std::conditional_t<std::is_same_v<typename P::Wt, float>, W, float>;  // pairs are moved as words
  const W* w = static_cast<const W*>(a.weight);
  for (int64_t v = 0; v < kTileVecs; ++v) {
    const int64_t first = n0 + v * kWidth;
    const int64_t count = max_of<int64_t>(0, min_of<int64_t>(kWidth, a.N - first));
    const auto row = [&](int64_t r) { return reinterpret_cast<const Unit*>(w + (first + r) * a.ldw); };
    pack_transposed<Unit>(row, count, a.K * kWidth / P::kStep, reinterpret_cast<float*>(panel) + v * kWidth, kPanel);
  }
}

template <class P, class T, class W>
inline void widen(const Linear& a) {
  const T* bias = static_cast<const T*>(a.bias);
  for_panels<P>(a.M, a.N, a.K, a.threads, rows_of<P, T>(a), [&](const RowTiles& tiles, const auto& block, int64_t p) {
    const int64_t n = p * kPanel;
    auto* panel = scratch<typename P::Wt>(2, kPanel * a.K);
    make_panel<P, W>(a, n, panel);
    const W* following = static_cast<const W*>(a.weight) + (n + kPanel) * a.ldw;
    multiply_block<P>(tiles, block, panel, a.K, following, [&](int64_t m, float* sums) {
      write_row(sums, bias ? bias + n : nullptr, static_cast<T*>(a.y) + m * a.ldy + n, min_of(kPanel, a.N - n));
    });
  });
}

}  // namespace detail

template <class T, class W>
inline void linear_widen(const Linear& a) {
  using P = StreamProduct<W>;
  if constexpr (std::is_same_v<T, W> && std::is_same_v<typename P::X, W>)
    if (a.K % (P::kStep / kWidth) == 0) return detail::widen<P, T, W>(a);
  detail::widen<FloatProduct<float>, T, W>(a);
}

template <class T>
inline void linear_panels(const Linear& a) {
  using P = StreamProduct<T>;
  const T* bias = static_cast<const T*>(a.bias);
  const auto write = [&](int64_t m, int64_t panel, float* sums) {
    const int64_t n = panel * kPanel;
    detail::write_row(sums, bias ? bias + n : nullptr, static_cast<T*>(a.y) + m * a.ldy + n, kPanel);
  };
  detail::panel_product<P>(a.M, a.weight, a.N, a.K, a.threads, detail::rows_of<P, T>(a), write);
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
