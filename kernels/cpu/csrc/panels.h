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

// So much of x is multiplied with a panel at a time: with the panel it fits the second-level cache.
constexpr int64_t kTileBytes = 524288;

// Making tiles of x costs about as much as multiplying them with 16 columns of W. Each thread makes its own, so it should
// multiply them with so many columns at least, but a block of rows should be large enough to be worth reading W for.
constexpr int64_t kColumnsPerTile = 1024;
constexpr int64_t kMinBlockRows = 16;

// M rows cut into blocks, which threads take hold of, and those into tiles of at most kTileRows; all as even as can be.
struct RowTiles {
  int64_t blocks, count, height, taller;

  RowTiles(int64_t M, int64_t N, int64_t K, int64_t threads) {
    const int64_t tile_bytes = kTileRows * K * static_cast<int64_t>(sizeof(float));
    const int64_t per_block = max_of<int64_t>(1, kTileBytes / tile_bytes);
    const int64_t fewest = ceil_div(ceil_div(M, kTileRows), per_block);
    const int64_t wanted = min_of(min_of(threads, ceil_div(threads * kColumnsPerTile, N)), M / kMinBlockRows);
    blocks = fewest > threads ? round_up(fewest, threads) : max_of(fewest, wanted);
    count = round_up(ceil_div(M, kTileRows), blocks);
    height = M / count;
    taller = M % count;
  }
  int64_t per_block() const { return count / blocks; }
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

// The block of x that a thread multiplies, as tiles in its own scratch memory: what another has written, or has read and is
// to be written again, costs more to fetch than to make. `row_at(m, buffer)` returns row m, which it may put in the buffer.
template <class P, class RowAt>
class OwnBlock {
 public:
  using X = typename P::X;
  static_assert(P::kStep / kWidth * sizeof(X) == sizeof(float));

  OwnBlock(const RowTiles& tiles, int64_t K, const RowAt& row_at) : tiles_(tiles), K_(K), row_at_(row_at) {}

  // Make the tiles of another block, unless they are there.
  void hold(int64_t block) {
    if (block == block_) return;
    block_ = block;
    const int64_t begin = tiles_.first(first()), rows = tiles_.first(last()) - begin;
    X* packed = scratch<X>(0, rows * K_);
    packed_ = packed;
    if (rows == 1) return static_cast<void>(packed_ = row_at_(begin, packed));
    for (int64_t t = first(); t < last(); ++t) pack(t, packed + (tiles_.first(t) - begin) * K_);
  }
  int64_t first() const { return block_ * tiles_.per_block(); }
  int64_t last() const { return first() + tiles_.per_block(); }
  const X* tile(int64_t t) const { return packed_ + (tiles_.first(t) - tiles_.first(first())) * K_; }

 private:
  void pack(int64_t t, X* to) {
    X* buffer = scratch<X>(1, kTileRows * K_);
    const X* rows[kTileRows];
    const int64_t first = tiles_.first(t), count = tiles_.rows(t);
    for (int64_t r = 0; r < count; ++r) rows[r] = row_at_(first + r, buffer + r * K_);
    pack_rows(rows, count, K_ * kWidth / P::kStep, to);
  }

  const RowTiles& tiles_;
  const int64_t K_;
  const RowAt& row_at_;
  int64_t block_ = -1;
  const X* packed_ = nullptr;
};

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
      __builtin_prefetch(x + (units + u) * R * kUnit, 0, 3);  // the next tile
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

// Of so much weight, times the rows that it is multiplied with, a thread takes hold at a time.
constexpr int64_t kRunBytes = 131072;

// A block of x times one panel; `write(row, sums)` takes the kPanel sums of each row. `following` is what the next panel is
// made of: with several tiles it is asked for meanwhile, so that it waits in the second-level cache.
template <class P, class Block, class Write>
inline void multiply_block(const RowTiles& tiles, const Block& block, const typename P::Wt* panel, int64_t K,
                           const void* following, Write&& write) {
  constexpr int64_t kUnit = P::kStep / kWidth;
  constexpr int64_t kUnitBytes = kPanel * kUnit * static_cast<int64_t>(sizeof(*panel));
  const char* near = reinterpret_cast<const char*>(panel) + kPanelLead;
  const int64_t height = tiles.per_block();
  PanelAhead ahead{height == 1 ? near : static_cast<const char*>(following), ceil_div(kUnitBytes, height)};
  for (int64_t t = block.first(); t < block.last(); ++t)
    with_count<kTileRows>(tiles.rows(t), [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      alignas(64) float sums[R * kPanel];
      panel_tile<R, P>(block.tile(t), panel, K / kUnit, ahead, sums);
      for (int r = 0; r < R; ++r) write(tiles.first(t) + r, sums + r * kPanel);
    });
}

// Call `body(tiles, block, panel)` for all blocks of x and all panels of W, on several threads. A thread goes on to the next
// panel in memory while it stays with a block.
template <class P, class RowAt, class F>
inline void for_panels(int64_t M, int64_t N, int64_t K, int64_t threads, const RowAt& row_at, F&& body) {
  const int64_t panels = ceil_div(N, kPanel), panel_bytes = kPanel * K * static_cast<int64_t>(sizeof(typename P::Wt));
  const int64_t team = useful_threads(panels * panel_bytes, 2 * M * panels * kPanel * K, threads);
  const RowTiles tiles(M, N, K, team);
  const int64_t grain = max_of<int64_t>(1, kRunBytes / (panel_bytes * tiles.per_block()));
  parallel_workers(tiles.blocks * panels, grain, team, [&] {
    return [&, block = OwnBlock<P, RowAt>(tiles, K, row_at)](int64_t begin, int64_t end) mutable {
      for (int64_t i = begin; i < end; ++i) {
        block.hold(i / panels);
        body(tiles, block, i % panels);
      }
    };
  });
}

// y = x W^T + bias for W in panels; `row_at(m, buffer)` gives rows of x, `write(m, panel, sums)` takes the sums.
template <class P, class RowAt, class Write>
inline void panel_product(int64_t M, const void* weight, int64_t N, int64_t K, int64_t threads, const RowAt& row_at,
                          Write&& write) {
  const auto* w = static_cast<const typename P::Wt*>(weight);
  for_panels<P>(M, N, K, threads, row_at, [&](const RowTiles& tiles, const auto& block, int64_t p) {
    const auto* panel = w + p * kPanel * K;
    multiply_block<P>(tiles, block, panel, K, panel + kPanel * K, [&](int64_t m, float* sums) { write(m, p, sums); });
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
