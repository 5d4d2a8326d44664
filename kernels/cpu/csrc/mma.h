// Products by POWER10's matrix units (MMA): an accumulator holds 4 x 4 sums, to which one instruction adds the products of
// 4 rows with 4 columns, in float one step along K at a time and in bf16 two. tiles.h and panels.h turn here for them.
#pragma once

#include "simd.h"

#if defined(__MMA__)

namespace quire {
namespace mma {

typedef __vector unsigned char Bytes;
constexpr int kRows = 4;     // of an accumulator
constexpr int kColumns = 2;  // accumulators side by side: kTileVecs

inline void multiply_add(__vector_quad* sums, Bytes x, Vec w) {
  __builtin_mma_xvf32gerpp(sums, x, reinterpret_cast<Bytes>(w));
}
inline void multiply_add(__vector_quad* sums, Bytes x, UVec w) {  // pairs of bf16
  __builtin_mma_xvbf16ger2pp(sums, x, reinterpret_cast<Bytes>(w));
}

// The first N words, N at most 4; the others are zero.
template <int N>
inline Bytes load_words(const void* p) {
  Bytes words{};
  std::memcpy(&words, p, 4 * (N < kRows ? N : kRows));
  return words;
}

// What accumulators held: R rows of kColumns vectors.
template <int R>
struct Tile {
  Vec rows[R][kColumns];
  const Vec (&operator[](int row) const)[kColumns] { return rows[row]; }
};

// R rows times kColumns vectors of columns, in accumulators.
template <int R>
struct Sums {
  static constexpr int kGroups = (R + kRows - 1) / kRows;
  __vector_quad at[kGroups][kColumns];

  Sums() {
#pragma GCC unroll 4
    for (auto& group : at)
#pragma GCC unroll 2
      for (__vector_quad& sums : group) __builtin_mma_xxsetaccz(&sums);
  }

  template <class Operand>
  void add(int group, Bytes x, const Operand (&w)[kColumns]) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumns; ++v) multiply_add(&at[group][v], x, w[v]);
  }

  Tile<R> read() {
    Tile<R> tile;
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g)
#pragma GCC unroll 2
      for (int v = 0; v < kColumns; ++v) {
        Vec rows[kRows];
        __builtin_mma_disassemble_acc(rows, &at[g][v]);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i)
          if (g * kRows + i < R) tile.rows[g * kRows + i][v] = rows[i];
      }
    return tile;
  }
};

// One run of detail::panel_tile: R rows of x times a panel, units [first, last).
template <int R, class P, class Ahead>
inline Tile<R> multiply_panel(const typename P::X* x, const typename P::Wt* w, int64_t first, int64_t last,
                              Ahead& ahead) {
  constexpr int64_t kUnit = P::kStep / kWidth;
  Sums<R> sums;
  for (int64_t u = first; u < last; ++u) {
    ahead.fetch();
    const typename P::X* rows = x + u * R * kUnit;
    const typename P::Wt* columns = w + u * kColumns * kWidth * kUnit;
    const typename P::Operand right[kColumns] = {P::read(columns), P::read(columns + kWidth * kUnit)};
    sums.add(0, load_words<R>(rows), right);
    if constexpr (R > 4) sums.add(1, load_words<R - 4>(rows + 4 * kUnit), right);
    if constexpr (R > 8) sums.add(2, load_words<R - 8>(rows + 8 * kUnit), right);
    if constexpr (R > 12) sums.add(3, load_words<R - 12>(rows + 12 * kUnit), right);
  }
  return sums.read();
}

// Rows [0, 4) of a at k; they lie side by side if a_row is 1.
inline Bytes load_rows(const float* a, int64_t a_row, int64_t a_k, int64_t k) {
  a += k * a_k;
  return reinterpret_cast<Bytes>(a_row == 1 ? load(a) : Vec{a[0], a[a_row], a[2 * a_row], a[3 * a_row]});
}

// outer_tile of M rows, M a multiple of 4.
template <int M, bool kAdd, class Rows>
inline void outer_tile(const float* a, int64_t a_row, int64_t a_k, const Rows& b, int64_t column, int64_t K, float* c,
                       int64_t ldc) {
  Sums<M> sums;
  for (int64_t k = 0; k < K; ++k) {
    const Vec right[kColumns] = {b.read(k, column), b.read(k, column + kWidth)};
#pragma GCC unroll 4
    for (int g = 0; g < M / kRows; ++g) sums.add(g, load_rows(a + g * kRows * a_row, a_row, a_k, k), right);
  }
  const Tile<M> tile = sums.read();
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < kColumns; ++v) {
      float* to = c + m * ldc + v * kWidth;
      store(to, kAdd ? load(to) + tile[m][v] : tile[m][v]);
    }
}

}  // namespace mma
}  // namespace quire

#endif
