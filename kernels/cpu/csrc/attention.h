// Causal attention of ragged rows over paged KV, with online softmax (FlashAttention; PagedAttention, Kwon et al. 2023).
// The query heads of a KV head share every key and value that is read.
#pragma once

#include <cmath>

#include "attention_plan.h"
#include "parallel.h"
#include "tiles.h"
#include "vector_math.h"

namespace quire {

namespace detail {

// The working memory of one item. Query i is token i / group, head i % group.
struct AttentionTile {
  int64_t num_queries, padded_queries, dim, padded_dim;
  float* query;        // direct: [queries, dim]; packed: panels of kTileRows queries, dim-major
  float* scores;       // [padded_queries, kTileKeys]
  float* sums;         // [padded_queries, padded_dim]
  float* keys;         // packed [dim, kTileKeys]
  float* values;       // packed [kTileKeys, padded_dim]
  float* max_score;    // [padded_queries]
  float* denominator;  // [padded_queries]
};

inline AttentionTile make_tile(const Attention& a, int64_t tokens, bool direct) {
  AttentionTile t;
  t.num_queries = tokens * a.group();
  t.padded_queries = direct ? t.num_queries : round_up(t.num_queries, kTileRows);
  t.dim = a.head_dim;
  t.padded_dim = round_up(a.head_dim, kTileVecs * kWidth);
  const int64_t packed = direct ? 0 : kTileKeys * t.padded_dim;
  const int64_t total = t.padded_queries * (2 * t.padded_dim + kTileKeys + 2) + 2 * packed;
  float* next = scratch<float>(0, total);
  const auto take = [&](int64_t count) {
    float* taken = next;
    next += count;
    return taken;
  };
  t.query = take(t.padded_queries * t.padded_dim);
  t.scores = take(t.padded_queries * kTileKeys);
  t.sums = take(t.padded_queries * t.padded_dim);
  t.keys = take(packed);
  t.values = take(packed);
  t.max_score = take(t.padded_queries);
  t.denominator = take(t.padded_queries);
  std::memset(t.sums, 0, static_cast<size_t>(t.padded_queries * t.padded_dim) * sizeof(float));
  for (int64_t i = 0; i < t.padded_queries; ++i) t.max_score[i] = kMinusInfinity, t.denominator[i] = 0.0f;
  return t;
}

// Queries, scaled and as floats.
template <class T>
inline void read_queries(const Attention& a, const AttentionItem& item, bool direct, AttentionTile& t) {
  const int64_t group = a.group();
  const float scale = static_cast<float>(a.scale);
  const T* query = static_cast<const T*>(a.query) + (a.query_start[item.row] + item.first_token) * a.q_token +
                   item.kv_head * group * a.q_head;
  if (!direct) std::memset(t.query, 0, static_cast<size_t>(t.padded_queries * t.dim) * sizeof(float));
  for (int64_t i = 0; i < t.num_queries; ++i) {
    const T* from = query + (i / group) * a.q_token + (i % group) * a.q_head;
    float* to = direct ? t.query + i * t.dim : t.query + (i / kTileRows) * kTileRows * t.dim + i % kTileRows;
    const int64_t step = direct ? 1 : kTileRows;
    for (int64_t d = 0; d < t.dim; ++d) to[d * step] = to_float(from[d]) * scale;
  }
}

// Where the keys and values of one tile lie.
template <class T>
struct TileRows {
  const T* keys[kTileKeys];
  const T* values[kTileKeys];
  int64_t count = 0;

  // Ask for some of the tile's memory.
  void fetch(int64_t begin, int64_t end, int64_t dim) const {
    for (int64_t j = begin; j < min_of(end, count); ++j) {
      prefetch(keys[j], dim * static_cast<int64_t>(sizeof(T)));
      prefetch(values[j], dim * static_cast<int64_t>(sizeof(T)));
    }
  }
};

// The tile of an item that begins at key `first`; it is empty past the last key.
template <class T>
inline void find_rows(const Attention& a, const AttentionItem& item, int64_t first, TileRows<T>& rows) {
  rows.count = max_of<int64_t>(0, min_of(kTileKeys, item.last_key - first));
  const int32_t* blocks = a.block_table + item.row * a.table_row;
  const T* keys = static_cast<const T*>(a.key_cache) + item.kv_head * a.k_head;
  const T* values = static_cast<const T*>(a.value_cache) + item.kv_head * a.v_head;
  int64_t block = first / a.block_size, slot = first % a.block_size;
  for (int64_t j = 0; j < rows.count; ++j) {
    rows.keys[j] = keys + blocks[block] * a.k_block + slot * a.k_slot;
    rows.values[j] = values + blocks[block] * a.v_block + slot * a.v_slot;
    if (++slot == a.block_size) slot = 0, ++block;
  }
}

// Scores against keys read in place; the tile that comes after is asked for meanwhile.
template <class T>
inline void score_direct(AttentionTile& t, const TileRows<T>& rows, const TileRows<T>& next) {
  for_blocks_of_four(rows.count, [&](auto keys, int64_t j0) {
    constexpr int N = decltype(keys)::value;
    next.fetch(j0, j0 + N, t.dim);
    for_blocks_of_four(t.num_queries, [&](auto queries, int64_t i0) {
      constexpr int M = decltype(queries)::value;
      const auto tile = dot_tile<M, N, FloatProduct<T>>(t.query + i0 * t.dim, t.dim, rows.keys + j0, t.dim);
      for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) t.scores[(i0 + m) * kTileKeys + j0 + n] = tile.at[m][n];
    });
  });
}

template <class T>
inline void score_packed(AttentionTile& t, const TileRows<T>& rows) {
  const int64_t count = rows.count, columns = round_up(count, kTileVecs * kWidth);
  for (int64_t j = 0; j < columns; j += kWidth) {
    const int64_t present = max_of<int64_t>(0, min_of<int64_t>(kWidth, count - j));
    pack_transposed<T>([&](int64_t r) { return rows.keys[j + r]; }, present, t.dim, t.keys + j, kTileKeys);
  }
  std::memset(t.scores, 0, static_cast<size_t>(t.padded_queries * kTileKeys) * sizeof(float));
  for (int64_t i = 0; i < t.padded_queries; i += kTileRows)
    for (int64_t j = 0; j < columns; j += kTileVecs * kWidth)
      outer_tile<kTileRows, kTileVecs>(t.query + i * t.dim, 1, kTileRows, PackedRows{t.keys, kTileKeys}, j, t.dim,
                                       t.scores + i * kTileKeys + j, kTileKeys);
}

inline void cap_scores(float* scores, int64_t count, float cap) {
  for (int64_t j = 0; j < count; j += kWidth) store(scores + j, set1(cap) * tanh(load(scores + j) / set1(cap)));
}

// Turn one query's scores into weights e^(score - max); keys outside [begin, end) get none.
inline void soften(AttentionTile& t, int64_t i, int64_t begin, int64_t end, float soft_cap) {
  float* scores = t.scores + i * kTileKeys;
  if (begin >= end) return static_cast<void>(std::memset(scores, 0, kTileKeys * sizeof(float)));
  if (soft_cap > 0) cap_scores(scores, end, soft_cap);
  for (int64_t j = 0; j < begin; ++j) scores[j] = kMinusInfinity;
  for (int64_t j = end; j < kTileKeys; ++j) scores[j] = kMinusInfinity;
  Vec highest = load(scores);
  for (int64_t j = kWidth; j < kTileKeys; j += kWidth) highest = max(highest, load(scores + j));
  const float shift = max_of(t.max_score[i], reduce_max(highest));
  Vec total = zero();
  for (int64_t j = 0; j < kTileKeys; j += kWidth) {
    const Vec weight = exp(load(scores + j) - set1(shift));
    store(scores + j, weight);
    total = total + weight;
  }
  const float keep = std::exp(t.max_score[i] - shift);
  t.denominator[i] = t.denominator[i] * keep + reduce_add(total);
  if (keep != 1.0f) {
    float* sums = t.sums + i * t.padded_dim;
    for (int64_t d = 0; d < t.padded_dim; d += kWidth) store(sums + d, load(sums + d) * set1(keep));
  }
  t.max_score[i] = shift;
}

inline void soften_all(const Attention& a, const AttentionItem& item, AttentionTile& t, int64_t first, int64_t count) {
  const int64_t tokens = a.query_start[item.row + 1] - a.query_start[item.row];
  const int64_t group = a.group();
  for (int64_t i = 0; i < t.num_queries; ++i) {
    const int64_t position = a.seq_lens[item.row] - tokens + item.first_token + i / group;
    const int64_t oldest = a.window > 0 ? max_of<int64_t>(0, position - a.window + 1) : 0;
    soften(t, i, max_of<int64_t>(0, oldest - first), min_of(count, position + 1 - first), static_cast<float>(a.soft_cap));
  }
}

// Values read in place.
template <class T>
inline void add_values_direct(AttentionTile& t, const TileRows<T>& rows) {
  for_blocks_of_four(t.num_queries, [&](auto queries, int64_t i) {
    constexpr int M = decltype(queries)::value;
    constexpr int kVecs = M <= 2 ? 4 : kTileVecs;
    const float* weights = t.scores + i * kTileKeys;
    float* sums = t.sums + i * t.padded_dim;
    const GatheredRows<T> whole{rows.values};
    int64_t d = 0;
    for (; d + kVecs * kWidth <= t.dim; d += kVecs * kWidth)
      outer_tile<M, kVecs>(weights, kTileKeys, 1, whole, d, rows.count, sums + d, t.padded_dim);
    for (; d + kWidth <= t.dim; d += kWidth)
      outer_tile<M, 1>(weights, kTileKeys, 1, whole, d, rows.count, sums + d, t.padded_dim);
    if (d < t.dim)
      outer_tile<M, 1>(weights, kTileKeys, 1, GatheredRest<T>{rows.values, t.dim - d}, d, rows.count, sums + d,
                       t.padded_dim);
  });
}

template <class T>
inline void add_values_packed(AttentionTile& t, const TileRows<T>& rows) {
  for (int64_t j = 0; j < rows.count; ++j) {
    float* row = t.values + j * t.padded_dim;
    convert(rows.values[j], row, t.dim);
    for (int64_t d = t.dim; d < t.padded_dim; ++d) row[d] = 0.0f;
  }
  for (int64_t i = 0; i < t.padded_queries; i += kTileRows)
    for (int64_t d = 0; d < t.padded_dim; d += kTileVecs * kWidth)
      outer_tile<kTileRows, kTileVecs>(t.scores + i * kTileKeys, kTileKeys, 1, PackedRows{t.values, t.padded_dim}, d,
                                       rows.count, t.sums + i * t.padded_dim + d, t.padded_dim);
}

// Divide by the denominator, the sink included, and write in the query's type.
template <class T>
inline void write_output(const Attention& a, int64_t token, int64_t head, float* sums, float max_score,
                         float denominator) {
  if (a.sinks) {
    const float shift = max_of(max_score, a.sinks[head]);
    const float keep = std::exp(max_score - shift);
    denominator = denominator * keep + std::exp(a.sinks[head] - shift);
    for (int64_t d = 0; d < a.head_dim; ++d) sums[d] *= keep;
  }
  T* out = static_cast<T*>(a.out) + (token * a.num_heads + head) * a.head_dim;
  const Vec scale = set1(denominator > 0 ? 1.0f / denominator : 0.0f);
  for_vectors(
      a.head_dim, [&](int64_t d) { store(out + d, load(sums + d) * scale); },
      [&](int64_t d, int64_t count) { store_first(out + d, load_first(sums + d, count) * scale, count); });
}

inline void finish_query(const Attention& a, int64_t token, int64_t head, float* sums, float max_score,
                         float denominator) {
  with_dtype(a.q_type, [&](auto tag) {
    write_output<typename decltype(tag)::type>(a, token, head, sums, max_score, denominator);
  });
}

inline void finish_item(const Attention& a, const AttentionItem& item, AttentionTile& t, float* partials) {
  const int64_t group = a.group();
  for (int64_t i = 0; i < t.num_queries; ++i) {
    float* sums = t.sums + i * t.padded_dim;
    if (item.partial < 0) {
      const int64_t token = a.query_start[item.row] + item.first_token + i / group;
      finish_query(a, token, item.kv_head * group + i % group, sums, t.max_score[i], t.denominator[i]);
      continue;
    }
    float* partial = partials + (item.partial + i) * (t.dim + 2);
    std::memcpy(partial, sums, static_cast<size_t>(t.dim) * sizeof(float));
    partial[t.dim] = t.max_score[i];
    partial[t.dim + 1] = t.denominator[i];
  }
}

// `after` is the item that this thread is likely to take next, or null: its first keys are asked for at the end.
template <class T>
inline void attend_direct(const Attention& a, const AttentionItem& item, const AttentionItem* after, AttentionTile& t) {
  TileRows<T> tiles[2];
  find_rows(a, item, item.first_key, tiles[0]);
  int current = 0;
  for (int64_t first = item.first_key; first < item.last_key; first += kTileKeys, current ^= 1) {
    TileRows<T>&rows = tiles[current], &next = tiles[current ^ 1];
    if (first + kTileKeys < item.last_key)
      find_rows(a, item, first + kTileKeys, next);
    else if (after)
      find_rows(a, *after, after->first_key, next);
    else
      next.count = 0;
    score_direct(t, rows, next);
    soften_all(a, item, t, first, rows.count);
    next.fetch(rows.count, next.count, t.dim);
    add_values_direct(t, rows);
  }
}

template <class T>
inline void attend_packed(const Attention& a, const AttentionItem& item, AttentionTile& t) {
  for (int64_t first = item.first_key; first < item.last_key; first += kTileKeys) {
    TileRows<T> rows;
    find_rows(a, item, first, rows);
    score_packed(t, rows);
    soften_all(a, item, t, first, rows.count);
    add_values_packed(t, rows);
  }
}

template <class T>
inline void attend_item(const Attention& a, const AttentionItem& item, const AttentionItem* after, float* partials) {
  const bool direct = item.num_tokens * a.group() <= kDirectQueries;
  AttentionTile t = make_tile(a, item.num_tokens, direct);
  with_dtype(a.q_type, [&](auto tag) { read_queries<typename decltype(tag)::type>(a, item, direct, t); });
  direct ? attend_direct<T>(a, item, after, t) : attend_packed<T>(a, item, t);
  finish_item(a, item, t, partials);
}

// Add up the runs of one query in order.
inline void merge_query(const Attention& a, const AttentionMerge& merge, int64_t i, const float* partials) {
  const int64_t queries = merge.num_tokens * a.group(), stride = a.head_dim + 2;
  const auto run_at = [&](int64_t run) { return partials + (merge.first_partial + run * queries + i) * stride; };
  float highest = kMinusInfinity, denominator = 0.0f;
  for (int64_t run = 0; run < merge.num_runs; ++run) highest = max_of(highest, run_at(run)[a.head_dim]);
  float* sums = scratch<float>(0, a.head_dim);
  std::memset(sums, 0, static_cast<size_t>(a.head_dim) * sizeof(float));
  for (int64_t run = 0; run < merge.num_runs; ++run) {
    const float* partial = run_at(run);
    const float keep = std::exp(partial[a.head_dim] - highest);
    denominator += keep * partial[a.head_dim + 1];
    for (int64_t d = 0; d < a.head_dim; ++d) sums[d] += keep * partial[d];
  }
  const int64_t token = a.query_start[merge.row] + i / a.group();
  finish_query(a, token, merge.kv_head * a.group() + i % a.group(), sums, highest, denominator);
}

}  // namespace detail

template <class T>
inline void paged_attention(const Attention& a) {
  const detail::AttentionWork work = detail::plan_attention(a);
  float* partials = scratch<float>(5, work.num_partials * (a.head_dim + 2));
  const int64_t row_bytes = 2 * a.head_dim * static_cast<int64_t>(sizeof(T));
  const int64_t threads = useful_threads(work.num_keys * row_bytes, work.num_pairs * a.group() * a.head_dim * 4,
                                         a.threads);
  const int64_t num_items = static_cast<int64_t>(work.items.size());
  const auto attend = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      detail::attend_item<T>(a, work.items[i], i + 1 < num_items ? &work.items[i + 1] : nullptr, partials);
  };
  parallel_ranges(num_items, 1, threads, attend);
  parallel_for(static_cast<int64_t>(work.merges.size()), threads, [&](int64_t i) {
    const detail::AttentionMerge& merge = work.merges[i];
    for (int64_t q = 0; q < merge.num_tokens * a.group(); ++q) detail::merge_query(a, merge, q, partials);
  });
}

}  // namespace quire
