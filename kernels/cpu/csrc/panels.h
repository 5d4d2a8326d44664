// Products with weights in panels: kPanel rows of W lie side by side, so that what one step along K needs of all of them
// is one straight load, and a thread reads its part of W from end to end.
//
// W is [N, K]; N is a multiple of kPanel and K of the product's unit (1 element, or 2 where the processor multiplies
// pairs). Unit u of row r of panel p is at ((p * K / kUnit + u) * kPanel + r) * kUnit. A panel of a gated weight holds
// kWidth rows of the gate and the same rows of the other half, so that the activation is applied while the sums are in
// the first-level cache. Every sum is taken in the order of K in runs of kDepthUnits, whatever else is in the batch.
#pragma once

#include "layer.h"
#include "parallel.h"
#include "tiles.h"

namespace quire {

constexpr int64_t kPanel = kTileVecs * kWidth;  // columns of y that are computed together
constexpr int64_t kDepthUnits = 256;            // added up in registers before they are added to the rest

// The product that an element type is multiplied with here: pairs of bf16 where the processor has that.
#if defined(__AVX512BF16__) || defined(__VSX__)
template <class T>
using StreamProduct = std::conditional_t<std::is_same_v<T, bf16>, PairProduct, FloatProduct<T>>;
#else
template <class T>
using StreamProduct = FloatProduct<T>;
#endif

// -- packing -------------------------------------------------------------------------------------------------------

struct PackPanels {
  const void* from;  // [N, K]
  void* to;          // as many elements; not `from`
  int64_t type;
  int64_t N, K;
  int64_t gated;
  int64_t threads;
};

// Elements of one unit along K, 0 if N or K does not divide.
template <class T>
inline int64_t panel_unit(int64_t N, int64_t K) {
  constexpr int64_t kUnit = StreamProduct<T>::kStep / kWidth;
  return N % kPanel == 0 && K % kUnit == 0 ? kUnit : 0;
}

template <class T>
inline void pack_panels(const PackPanels& a) {
  constexpr int64_t kUnit = StreamProduct<T>::kStep / kWidth;
  parallel_for(a.N / kPanel, a.threads, [&](int64_t p) {
    const T* rows[kPanel];
    for (int64_t r = 0; r < kPanel; ++r)
      rows[r] = static_cast<const T*>(a.from) +
                (a.gated ? r / kWidth * (a.N / kTileVecs) + p * kWidth + r % kWidth : p * kPanel + r) * a.K;
    T* to = static_cast<T*>(a.to) + p * kPanel * a.K;
    for (int64_t k = 0; k < a.K; k += kUnit)
      for (int64_t r = 0; r < kPanel; ++r)
        for (int64_t i = 0; i < kUnit; ++i) *to++ = rows[r][k + i];
  });
}

namespace detail {

// M rows cut into tiles of at most kTileRows, as even as can be.
struct RowTiles {
  int64_t count, height, taller;

  explicit RowTiles(int64_t M) : count(ceil_div(M, kTileRows)), height(M / count), taller(M % count) {}
  int64_t first(int64_t tile) const { return tile * height + min_of(tile, taller); }
  int64_t rows(int64_t tile) const { return height + (tile < taller); }
};

// Call `body(Count<n>{})` for an n of 1 … Most.
template <int Most, class F>
inline void with_count(int64_t n, F&& body) {
  if constexpr (Most > 1)
    if (n < Most) return with_count<Most - 1>(n, body);
  body(Count<Most>{});
}

// One tile of x, unit by unit: unit u of its row r goes to (u * count + r) * unit. Units are of 32 bits for every product.
template <class X>
inline void pack_tile(const X* const* rows, int64_t count, int64_t units, X* packed) {
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
        at + kWidth <= units * count ? store(to + at, square[i]) : store_first(to + at, square[i], count - r0);
      }
    }
  }
  for (; u < units; ++u)
    for (int64_t r = 0; r < count; ++r) std::memcpy(to + u * count + r, word(rows[r]) + u, sizeof(float));
}

// x as tiles, in scratch memory of the calling thread. `row_at(m, buffer)` returns row m, which it may put in the buffer.
template <class P, class RowAt>
inline const typename P::X* pack_rows(int64_t M, int64_t K, int64_t threads, RowAt&& row_at) {
  using X = typename P::X;
  static_assert(P::kStep / kWidth * sizeof(X) == sizeof(float));
  X* packed = scratch<X>(0, M * K);
  if (M == 1) return row_at(0, packed);
  const RowTiles tiles(M);
  parallel_for(tiles.count, useful_threads(M * K * static_cast<int64_t>(sizeof(X)), 0, threads), [&](int64_t t) {
    X* buffer = scratch<X>(1, kTileRows * K);
    const X* rows[kTileRows];
    const int64_t first = tiles.first(t), count = tiles.rows(t);
    for (int64_t r = 0; r < count; ++r) rows[r] = row_at(first + r, buffer + r * K);
    pack_tile(rows, count, K * kWidth / P::kStep, packed + first * K);
  });
  return packed;
}

// Memory that is read later, asked for bit by bit: `step` bytes with every unit along K.
struct PanelAhead {
  const char* next;
  int64_t step;

  void fetch() {
    __builtin_prefetch(next, 0, 2);
    if (step > 64) __builtin_prefetch(next + 64, 0, 2);
    next += step;
  }
};

// sums[r * kPanel + n] = row r of a tile of x times row n of a panel, for R rows and `units` units.
template <int R, class P>
inline void panel_tile(const typename P::X* x, const typename P::Wt* w, int64_t units, PanelAhead& ahead, float* sums) {
  [[maybe_unused]] constexpr int64_t kUnit = P::kStep / kWidth;
  for (int64_t first = 0; first < units; first += kDepthUnits) {
    const int64_t last = min_of(units, first + kDepthUnits);
#if defined(__MMA__)
    const auto acc = mma::multiply_panel<R, P>(x, w, first, last, ahead);
#else
    Vec acc[R][kTileVecs] = {};
    for (int64_t u = first; u < last; ++u) {
      ahead.fetch();
      __builtin_prefetch(x + (units + u) * R * kUnit, 0, 3);  // the next tile, which another thread may have packed
      typename P::Operand right[kTileVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kTileVecs; ++v) right[v] = P::read(w + (u * kPanel + v * kWidth) * kUnit);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const typename P::Operand left = P::broadcast(x + (u * R + r) * kUnit);
#pragma GCC unroll 4
        for (int v = 0; v < kTileVecs; ++v) acc[r][v] = P::accumulate(acc[r][v], left, right[v]);
      }
    }
#endif
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kTileVecs; ++v) {
        float* to = sums + r * kPanel + v * kWidth;
        store(to, first == 0 ? acc[r][v] : load(to) + acc[r][v]);
      }
  }
}

// How far ahead a weight that is read once is asked for: it fits the first-level cache.
constexpr int64_t kPanelLead = 8192;

// So much of x is multiplied with a panel at a time: with the panel it fits the second-level cache.
constexpr int64_t kTileBytes = 524288;

// Of so much weight, times the rows that it is multiplied with, a thread takes hold at a time.
constexpr int64_t kRunBytes = 131072;

// Tiles [begin, end) of x times one panel; `write(row, sums)` takes the kPanel sums of each row. `following` is what the
// next panel is made of: with several tiles it is asked for meanwhile, so that it waits in the second-level cache.
template <class P, class Write>
inline void panel_rows(const typename P::X* x, const RowTiles& tiles, int64_t begin, int64_t end,
                       const typename P::Wt* panel, int64_t K, const void* following, Write&& write) {
  constexpr int64_t kUnit = P::kStep / kWidth;
  constexpr int64_t kUnitBytes = kPanel * kUnit * static_cast<int64_t>(sizeof(*panel));
  const char* near = reinterpret_cast<const char*>(panel) + kPanelLead;
  PanelAhead ahead{end - begin == 1 ? near : static_cast<const char*>(following), ceil_div(kUnitBytes, end - begin)};
  for (int64_t t = begin; t < end; ++t)
    with_count<kTileRows>(tiles.rows(t), [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      alignas(64) float sums[R * kPanel];
      const int64_t first = tiles.first(t);
      panel_tile<R, P>(x + first * K, panel, K / kUnit, ahead, sums);
      for (int r = 0; r < R; ++r) write(first + r, sums + r * kPanel);
    });
}

// Call `body(first_tile, last_tile, panel)` for all tiles of x and all panels, on several threads. So many tiles at a time
// as leave room for a panel in the second-level cache; a thread goes on to the next panel in memory.
template <class F>
inline void for_panels(const RowTiles& tiles, int64_t panels, int64_t K, int64_t element_bytes, int64_t threads, F&& body) {
  const int64_t height = max_of<int64_t>(1, kTileBytes / (kTileRows * K * static_cast<int64_t>(sizeof(float))));
  const int64_t blocks = ceil_div(tiles.count, height);
  const int64_t panel_bytes = kPanel * K * element_bytes;
  const int64_t grain = max_of<int64_t>(1, kRunBytes / (panel_bytes * min_of(tiles.count, height)));
  const int64_t flops = 2 * tiles.count * tiles.height * panels * kPanel * K;
  parallel_ranges(blocks * panels, grain, useful_threads(panels * panel_bytes, flops, threads),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) {
                      const int64_t first = i / panels * height;
                      body(first, min_of(tiles.count, first + height), i % panels);
                    }
                  });
}

// y = x W^T + bias for W in panels; `write(m, panel, sums)` takes the sums.
template <class P, class Write>
inline void panel_product(const typename P::X* x, int64_t M, const void* weight, int64_t N, int64_t K, int64_t threads,
                          Write&& write) {
  const RowTiles tiles(M);
  const auto* w = static_cast<const typename P::Wt*>(weight);
  for_panels(tiles, N / kPanel, K, sizeof(*w), threads, [&](int64_t begin, int64_t end, int64_t p) {
    const auto* panel = w + p * kPanel * K;
    panel_rows<P>(x, tiles, begin, end, panel, K, panel + kPanel * K,
                  [&](int64_t m, float* sums) { write(m, p, sums); });
  });
}

// The activation of a gated panel, which `out` gets kWidth elements of; biases are null or of the type of x.
template <class A, class T>
inline void write_gated(float* sums, const T* gate_bias, const T* up_bias, T* out) {
  static_assert(kTileVecs == 2, "a panel holds one vector of the gate and one of the other half");
  Vec gate = load(sums), up = load(sums + kWidth);
  if (gate_bias) gate = gate + load(gate_bias), up = up + load(up_bias);
  store(out, A::apply(gate) * up);
}

}  // namespace detail
}  // namespace quire
