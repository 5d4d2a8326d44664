// Register-blocked matrix products: the two inner loops that linear, moe and attention are made of.
#pragma once

#include "simd.h"

namespace quire {

// -- dot form: both operands contiguous along the summed axis ------------------------------------------------------

template <int M, int N>
struct DotSums {
  float at[M][N];
};

// sums[m][n] = x[m] . w[n] over K elements; row m of x is at x + m * ldx, row n of w at w[n].
template <int M, int N, class P>
inline DotSums<M, N> dot_tile(const typename P::X* x, int64_t ldx, const typename P::Wt* const* w, int64_t K) {
  Vec acc[M][N] = {};
  int64_t k = 0;
  for (; k + P::kStep <= K; k += P::kStep) {
    typename P::Operand b[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) b[n] = P::read(w[n] + k);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const typename P::Operand a = P::read(x + m * ldx + k);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[m][n] = P::accumulate(acc[m][n], a, b[n]);
    }
  }
  if (k < K) {
    for (int m = 0; m < M; ++m)
      for (int n = 0; n < N; ++n)
        acc[m][n] = P::accumulate(acc[m][n], P::read_first(x + m * ldx + k, K - k), P::read_first(w[n] + k, K - k));
  }
  DotSums<M, N> sums;
  if constexpr (N == 4) {
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) reduce_add_all<N>(acc[m], sums.at[m]);
  } else {
    for (int m = 0; m < M; ++m)
      for (int n = 0; n < N; ++n) sums.at[m][n] = reduce_add(acc[m][n]);
  }
  return sums;
}

// Call `tile(Count<m>{}, first)` over `rows` rows in blocks of four, then what is left.
template <int N>
struct Count {
  static constexpr int value = N;
};

template <class F>
inline void for_blocks_of_four(int64_t rows, F&& tile) {
  int64_t first = 0;
  for (; first + 4 <= rows; first += 4) tile(Count<4>{}, first);
  switch (rows - first) {
    case 3:
      return tile(Count<3>{}, first);
    case 2:
      return tile(Count<2>{}, first);
    case 1:
      return tile(Count<1>{}, first);
  }
}

// -- outer form: one operand broadcast, the other contiguous along the kept axis ------------------------------------

// Rows of a packed float matrix.
struct PackedRows {
  const float* data;
  int64_t ld;
  Vec read(int64_t k, int64_t column) const { return load(data + k * ld + column); }
};

// Rows found through pointers, converted as they are read.
template <class T>
struct GatheredRows {
  const T* const* rows;
  Vec read(int64_t k, int64_t column) const { return load(rows[k] + column); }
};

// The same where fewer than kWidth columns are left.
template <class T>
struct GatheredRest {
  const T* const* rows;
  int64_t count;
  Vec read(int64_t k, int64_t column) const { return load_first(rows[k] + column, count); }
};

// c[m][0 … NV vectors) += sum over k of a[m, k] * b[k], for M rows; a[m, k] is at a + m * a_row + k * a_k.
template <int M, int NV, class Rows>
inline void outer_tile(const float* a, int64_t a_row, int64_t a_k, const Rows& b, int64_t column, int64_t K, float* c,
                       int64_t ldc) {
  Vec acc[M][NV];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[m][v] = load(c + m * ldc + v * kWidth);
  for (int64_t k = 0; k < K; ++k) {
    Vec right[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) right[v] = b.read(k, column + v * kWidth);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Vec left = set1(a[m * a_row + k * a_k]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[m][v] = fma(left, right[v], acc[m][v]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) store(c + m * ldc + v * kWidth, acc[m][v]);
}

// -- packing -------------------------------------------------------------------------------------------------------

// packed[k * ld + r] = row(r)[k] for K elements of `count` <= kWidth rows, as floats; missing rows become zero.
template <class T, class RowAt>
inline void pack_transposed(const RowAt& row, int64_t count, int64_t K, float* packed, int64_t ld) {
  int64_t k = 0;
  for (; k + kWidth <= K; k += kWidth) {
    Vec square[kWidth];
    for (int r = 0; r < kWidth; ++r) square[r] = r < count ? load(row(r) + k) : zero();
    transpose(square);
    for (int i = 0; i < kWidth; ++i) store(packed + (k + i) * ld, square[i]);
  }
  for (; k < K; ++k)
    for (int r = 0; r < kWidth; ++r) packed[k * ld + r] = r < count ? to_float(row(r)[k]) : 0.0f;
}

}  // namespace quire
