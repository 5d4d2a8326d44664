// Register-blocked matrix products: the two inner loops that linear, moe and attention are made of.
#pragma once

#include "mma.h"
#include "products.h"
#include "simd.h"

namespace quire {

// Ask for `bytes` of memory that will be read soon. Always inline: GCC takes a function that only asks for one without effect.
__attribute__((always_inline)) inline void prefetch(const void* data, int64_t bytes) {
  for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(data) + line, 0, 2);
}

// -- dot form: both operands contiguous along the summed axis ------------------------------------------------------

template <int M, int N>
struct DotSums {
  float at[M][N];
};

// The lane sums of all accumulators of a tile, as many at a time as a vector has lanes.
template <int M, int N>
inline DotSums<M, N> reduce_tile(const Vec (&acc)[M][N]) {
  constexpr int kCount = M * N;
  constexpr int kGroup = kCount >= kWidth ? kWidth : kCount > 8 ? 16 : kCount > 4 ? 8 : kCount > 2 ? 4 : kCount;
  float sums[(kCount + kGroup - 1) / kGroup * kWidth];
#pragma GCC unroll 2
  for (int first = 0; first < kCount; first += kGroup) {
    Vec group[kGroup];
#pragma GCC unroll 16
    for (int i = 0; i < kGroup; ++i) group[i] = first + i < kCount ? acc[(first + i) / N][(first + i) % N] : zero();
    store(sums + first, reduce_add_all<kGroup>(group));
  }
  DotSums<M, N> tile;
  std::memcpy(tile.at, sums, sizeof(tile.at));
  return tile;
}

// Memory that is read soon, asked for while a tile computes, so that it comes in as one straight stream. Rows that are
// read side by side would otherwise be as many streams, which get a third of the memory's rate.
struct Ahead {
  const char* next = nullptr;  // null: ask for nothing
  bool far = false;            // too much for the first-level cache

  // Ask for `bytes` more.
  template <int bytes>
  void fetch() {
    if (!next) return;
    for (int line = 0; line < bytes; line += 64)
      far ? __builtin_prefetch(next + line, 0, 2) : __builtin_prefetch(next + line, 0, 3);
    next += bytes;
  }
};

// sums[m][n] = x[m] . w[n] over K elements; row m of x is at x + m * ldx, row n of w at w[n]. Every sum is taken in the
// same order whatever M and N are, so that a result does not depend on how rows are grouped.
template <int M, int N, class P>
inline DotSums<M, N> dot_tile(const typename P::X* x, int64_t ldx, const typename P::Wt* const* w, int64_t K,
                              Ahead ahead = {}) {
  Vec acc[M][N] = {};
  int64_t k = 0;
  for (; k + P::kStep <= K; k += P::kStep) {
    ahead.fetch<N * P::kStep * static_cast<int>(sizeof(typename P::Wt))>();
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
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n)
        acc[m][n] = P::accumulate(acc[m][n], P::read_first(x + m * ldx + k, K - k), P::read_first(w[n] + k, K - k));
  }
  return reduce_tile(acc);
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
  template <int NV>
  void ahead(int64_t, int64_t) const {}
  Vec read(int64_t k, int64_t column) const { return load(data + k * ld + column); }
};

// c[m][0 … NV vectors) = sum over k of a[m, k] * b[k] for M rows, and what c has if it is to be added to; a[m, k] is at
// a + m * a_row + k * a_k.
enum class Sum { kNew, kAdd };

template <int M, int NV, Sum kSum, class Rows>
inline void outer_tile(const float* a, int64_t a_row, int64_t a_k, const Rows& b, int64_t column, int64_t K, float* c,
                       int64_t ldc) {
#if defined(__MMA__)
  if constexpr (M == kTileRows && NV == kTileVecs) return mma::outer_tile<M, kSum == Sum::kAdd>(a, a_row, a_k, b, column, K, c, ldc);
#endif
  Vec acc[M][NV] = {};  // starts from zero and is added to c at the end: shorter sums lose fewer digits
  for (int64_t k = 0; k < K; ++k) {
    b.template ahead<NV>(k, column);
    Vec right[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) right[v] = b.read(k, column + v * kWidth);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Vec left = set1(a[m * a_row + k * a_k]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[m][v] = fma(left, right[v], acc[m][v]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      float* to = c + m * ldc + v * kWidth;
      store(to, kSum == Sum::kAdd ? load(to) + acc[m][v] : acc[m][v]);
    }
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

// Rows side by side, unit by unit: unit u of row r goes to (u * count + r) * unit. Units are of 32 bits for every product.
template <class X>
inline void pack_rows(const X* const* rows, int64_t count, int64_t units, X* packed) {
  const auto word = [](const X* row) { return reinterpret_cast<const float*>(row); };
  float* to = reinterpret_cast<float*>(packed);
  int64_t u = 0;
  for (; u + kWidth <= units; u += kWidth) {
    for (int64_t r0 = (count - 1) / kWidth * kWidth; r0 >= 0; r0 -= kWidth) {  // the last rows first, for what their
      Vec square[kWidth];                                                      // stores have too much is then overwritten
      for (int r = 0; r < kWidth; ++r) square[r] = r0 + r < count ? load(word(rows[r0 + r]) + u) : zero();
      transpose(square);
      for (int i = 0; i < kWidth; ++i) {
        const int64_t at = (u + i) * count + r0;
        at + kWidth <= units * count ? store(to + at, square[i]) : store_first(to + at, square[i], min_of<int64_t>(kWidth, count - r0));
      }
    }
  }
  for (; u < units; ++u)
    for (int64_t r = 0; r < count; ++r) std::memcpy(to + u * count + r, word(rows[r]) + u, sizeof(float));
}

}  // namespace quire
