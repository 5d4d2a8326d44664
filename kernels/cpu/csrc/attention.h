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
  int64_t width;       // keys scored at a time
  float* scores;       // [padded_queries, width]
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
  t.width = direct ? kSplitKeys : kTileKeys;
  const int64_t packed = direct ? 0 : kTileKeys * t.padded_dim;
  const int64_t total = t.padded_queries * (2 * t.padded_dim + t.width + 2) + 2 * packed;
  float* next = scratch<float>(0, total);
  const auto take = [&](int64_t count) {
    float* taken = next;
    next += count;
    return taken;
  };
  t.query = take(t.padded_queries * t.padded_dim);
  t.scores = take(t.padded_queries * t.width);
  t.sums = take(t.padded_queries * t.padded_dim);
  t.keys = take(packed);
  t.values = take(packed);
  t.max_score = take(t.padded_queries);
  t.denominator = take(t.padded_queries);
  return t;
}

// Queries, scaled and as floats: as rows, or in panels, which zeros fill up.
template <class T>
inline void read_queries(const Attention& a, const AttentionItem& item, AttentionTile& t) {
  const int64_t group = a.group();
  const float scale = static_cast<float>(a.scale);
  const T* query = static_cast<const T*>(a.query) + (a.query_start[item.row] + item.first_token) * a.q_token +
                   item.kv_head * group * a.q_head;
  float* rows = item.direct ? t.query : t.sums;  // the sums are not needed yet
  for (int64_t i = 0; i < t.num_queries; ++i)
    scale_to(query + (i / group) * a.q_token + (i % group) * a.q_head, scale, rows + i * t.dim, t.dim);
  if (item.direct) return;
  std::memset(rows + t.num_queries * t.dim, 0, static_cast<size_t>((t.padded_queries - t.num_queries) * t.dim) * sizeof(float));
  for (int64_t i = 0; i < t.padded_queries; i += kTileRows) {
    const float* panel[kTileRows];
    for (int64_t r = 0; r < kTileRows; ++r) panel[r] = rows + (i + r) * t.dim;
    pack_rows(panel, kTileRows, t.dim, t.query + i * t.dim);
  }
}

inline void clear_sums(AttentionTile& t) {
  std::memset(t.sums, 0, static_cast<size_t>(t.padded_queries * t.padded_dim) * sizeof(float));
  for (int64_t i = 0; i < t.padded_queries; ++i) t.max_score[i] = kMinusInfinity, t.denominator[i] = 0.0f;
}

// Where the keys and values of one tile lie.
template <class T>
struct TileRows {
  const T* keys[kTileKeys];
  const T* values[kTileKeys];
  int64_t count = 0;

};

// Rows that are read later, asked for one by one.
template <class T>
struct NextRows {
  const T* const* rows;
  int64_t count;
  __attribute__((always_inline)) void fetch(int64_t row, int64_t column, int64_t columns) const {
    if (row < count) prefetch(rows[row] + column, columns * static_cast<int64_t>(sizeof(T)));
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

// Scores of keys `first` … against keys read in place; what is read next is asked for meanwhile.
template <class T>
inline void score_direct(AttentionTile& t, int64_t first, const TileRows<T>& rows, const NextRows<T>& next) {
  for_blocks_of_four(rows.count, [&](auto keys, int64_t j0) {
    constexpr int N = decltype(keys)::value;
    for (int64_t j = j0; j < j0 + N; ++j) next.fetch(j, 0, t.dim);
    for_blocks_of_four(t.num_queries, [&](auto queries, int64_t i0) {
      constexpr int M = decltype(queries)::value;
      const auto tile = dot_tile<M, N, FloatProduct<T>>(t.query + i0 * t.dim, t.dim, rows.keys + j0, t.dim);
      for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) t.scores[(i0 + m) * t.width + first + j0 + n] = tile.at[m][n];
    });
  });
}

// Of a tile that begins at key `first`, how many keys queries up to i see: [0, count) of them.
inline int64_t visible_keys(const Attention& a, const AttentionItem& item, int64_t i, int64_t first, int64_t count) {
  const int64_t tokens = a.query_start[item.row + 1] - a.query_start[item.row];
  const int64_t token = item.first_token + min_of(i / a.group(), item.num_tokens - 1);
  return max_of<int64_t>(0, min_of(count, a.seq_lens[item.row] - tokens + token + 1 - first));
}

// Scores of kTileRows queries from i on against packed keys.
inline void score_panel(const AttentionTile& t, int64_t i, int64_t count) {
  const float* query = t.query + i * t.dim;
  float* scores = t.scores + i * t.width;
  const PackedRows keys{t.keys, kTileKeys};
  int64_t j = 0;
  for (; j + kWidth < count; j += kTileVecs * kWidth)
    outer_tile<kTileRows, kTileVecs, Sum::kNew>(query, 1, kTileRows, keys, j, t.dim, scores + j, t.width);
  if (j < count) outer_tile<kTileRows, 1, Sum::kNew>(query, 1, kTileRows, keys, j, t.dim, scores + j, t.width);
}

template <class T>
inline void pack_keys(AttentionTile& t, const TileRows<T>& rows) {
  for (int64_t j = 0; j < round_up(rows.count, kTileVecs * kWidth); j += kWidth) {
    const int64_t present = max_of<int64_t>(0, min_of<int64_t>(kWidth, rows.count - j));
    pack_transposed<T>([&](int64_t r) { return rows.keys[j + r]; }, present, t.dim, t.keys + j, kTileKeys);
  }
}

inline void cap_scores(float* scores, int64_t count, float cap) {
  for (int64_t j = 0; j < count; j += kWidth) store(scores + j, set1(cap) * tanh(load(scores + j) / set1(cap)));
}

// Turn one query's scores of `count` keys into weights e^(score - max); keys outside [begin, end) get none.
inline void soften(AttentionTile& t, int64_t i, int64_t begin, int64_t end, int64_t count, float soft_cap) {
  float* scores = t.scores + i * t.width;
  const int64_t columns = round_up(count, kWidth);
  if (begin >= end) return static_cast<void>(std::memset(scores, 0, static_cast<size_t>(columns) * sizeof(float)));
  if (soft_cap > 0) cap_scores(scores, end, soft_cap);
  for (int64_t j = 0; j < begin; ++j) scores[j] = kMinusInfinity;
  for (int64_t j = end; j < columns; ++j) scores[j] = kMinusInfinity;
  Vec highest = load(scores);
  for (int64_t j = kWidth; j < columns; j += kWidth) highest = max(highest, load(scores + j));
  const float shift = max_of(t.max_score[i], reduce_max(highest));
  Vec total = zero();
  for (int64_t j = 0; j < columns; j += kWidth) {
    const Vec weight = exp(load(scores + j) - set1(shift));
    store(scores + j, weight);
    total = total + weight;
  }
  const float before = t.max_score[i];
  t.max_score[i] = shift;
  if (before == shift) return static_cast<void>(t.denominator[i] += reduce_add(total));
  const float keep = before == kMinusInfinity ? 0.0f : std::exp(before - shift);
  t.denominator[i] = t.denominator[i] * keep + reduce_add(total);
  if (before == kMinusInfinity) return;  // there are no sums yet
  float* sums = t.sums + i * t.padded_dim;
  for (int64_t d = 0; d < t.padded_dim; d += kWidth) store(sums + d, load(sums + d) * set1(keep));
}

// The same for queries [i, end) of an item, of whose keys from `first` on `count` were scored.
inline void soften_queries(const Attention& a, const AttentionItem& item, AttentionTile& t, int64_t i, int64_t end,
                           int64_t first, int64_t count) {
  const int64_t tokens = a.query_start[item.row + 1] - a.query_start[item.row];
  for (; i < end; ++i) {
    const int64_t position = a.seq_lens[item.row] - tokens + item.first_token + i / a.group();
    const int64_t oldest = a.window > 0 ? max_of<int64_t>(0, position - a.window + 1) : 0;
    const int64_t begin = max_of<int64_t>(0, oldest - first);
    soften(t, i, begin, min_of(count, position + 1 - first), count, static_cast<float>(a.soft_cap));
  }
}

// Rows found through pointers, converted as they are read; what is read next is asked for meanwhile.
template <class T>
struct ValueRows {
  const T* const* rows;
  NextRows<T> next;
  template <int NV>
  __attribute__((always_inline)) void ahead(int64_t k, int64_t column) const {
    next.fetch(k, column, NV * kWidth);
  }
  Vec read(int64_t k, int64_t column) const { return load(rows[k] + column); }
};

// The same where fewer than kWidth columns are left.
template <class T>
struct ValueRest {
  const T* const* rows;
  int64_t count;
  template <int NV>
  void ahead(int64_t, int64_t) const {}
  Vec read(int64_t k, int64_t column) const { return load_first(rows[k] + column, count); }
};

// Columns from d on, NV vectors at a time, then half as many.
template <int M, int NV, class T>
inline void add_columns(const AttentionTile& t, const float* weights, const ValueRows<T>& rows, int64_t count, int64_t d,
                        float* sums) {
  for (; d + NV * kWidth <= t.dim; d += NV * kWidth)
    outer_tile<M, NV, Sum::kAdd>(weights, t.width, 1, rows, d, count, sums + d, t.padded_dim);
  if constexpr (NV > 1)
    add_columns<M, NV / 2>(t, weights, rows, count, d, sums);
  else if (d < t.dim)
    outer_tile<M, 1, Sum::kAdd>(weights, t.width, 1, ValueRest<T>{rows.rows, t.dim - d}, d, count, sums + d, t.padded_dim);
}

// Values of keys `first` …, read in place.
template <class T>
inline void add_values_direct(AttentionTile& t, int64_t first, const TileRows<T>& rows, const NextRows<T>& next) {
  for_blocks_of_four(t.num_queries, [&](auto queries, int64_t i) {
    constexpr int M = decltype(queries)::value;
    constexpr int kMost = (kRegisters - 1) / (M + 1);  // vectors of columns whose sums and values fit the registers
    constexpr int kVecs = kMost >= 8 ? 8 : kMost >= 4 ? 4 : 2;
    const ValueRows<T> values{rows.values, i == 0 ? next : NextRows<T>{nullptr, 0}};
    add_columns<M, kVecs>(t, t.scores + i * t.width + first, values, rows.count, 0, t.sums + i * t.padded_dim);
  });
}

template <class T>
inline void pack_values(AttentionTile& t, const TileRows<T>& rows) {
  for (int64_t j = 0; j < rows.count; ++j) {
    float* row = t.values + j * t.padded_dim;
    convert(rows.values[j], row, t.dim);
    for (int64_t d = t.dim; d < t.padded_dim; ++d) row[d] = 0.0f;
  }
}

// Add `count` packed values to the sums of kTileRows queries from i on.
inline void add_values_panel(const AttentionTile& t, int64_t i, int64_t count) {
  for (int64_t d = 0; d < t.padded_dim; d += kTileVecs * kWidth)
    outer_tile<kTileRows, kTileVecs, Sum::kAdd>(t.scores + i * t.width, t.width, 1, PackedRows{t.values, t.padded_dim}, d,
                                                count, t.sums + i * t.padded_dim + d, t.padded_dim);
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

// All keys of the item, then all values, so that memory is read without a pause. `after` is the item that this thread is
// likely to take next, or null: its first keys are asked for at the end.
template <class T>
inline void attend_direct(const Attention& a, const AttentionItem& item, const AttentionItem* after, AttentionTile& t) {
  constexpr int64_t kMostTiles = kSplitKeys / kTileKeys;
  TileRows<T> tiles[kMostTiles + 1];
  const int64_t count = item.last_key - item.first_key, num_tiles = ceil_div(count, kTileKeys);
  for (int64_t i = 0; i < num_tiles; ++i) find_rows(a, item, item.first_key + i * kTileKeys, tiles[i]);
  if (after) find_rows(a, *after, after->first_key, tiles[num_tiles]);
  for (int64_t i = 0; i < num_tiles; ++i) {
    const bool last = i + 1 == num_tiles;
    const NextRows<T> next = last ? NextRows<T>{tiles[0].values, tiles[0].count} : NextRows<T>{tiles[i + 1].keys, tiles[i + 1].count};
    score_direct(t, i * kTileKeys, tiles[i], next);
  }
  soften_queries(a, item, t, 0, t.num_queries, item.first_key, count);
  for (int64_t i = 0; i < num_tiles; ++i) {
    const TileRows<T>& following = tiles[i + 1];
    const bool last = i + 1 == num_tiles;
    const NextRows<T> next = last ? NextRows<T>{following.keys, after ? following.count : 0} : NextRows<T>{following.values, following.count};
    add_values_direct(t, i * kTileKeys, tiles[i], next);
  }
}

template <class T>
inline void attend_packed(const Attention& a, const AttentionItem& item, AttentionTile& t) {
  for (int64_t first = item.first_key; first < item.last_key; first += kTileKeys) {
    TileRows<T> rows;
    find_rows(a, item, first, rows);
    pack_keys(t, rows);
    pack_values(t, rows);
    for (int64_t i = 0; i < t.padded_queries; i += kTileRows) {
      const int64_t count = visible_keys(a, item, i + kTileRows - 1, first, rows.count);
      if (count == 0) continue;
      score_panel(t, i, count);
      soften_queries(a, item, t, i, min_of(i + kTileRows, t.num_queries), first, count);
      add_values_panel(t, i, count);
    }
  }
}

template <class T>
inline void attend_item(const Attention& a, const AttentionItem& item, const AttentionItem* after, float* partials) {
  AttentionTile t = make_tile(a, item.num_tokens, item.direct);
  with_dtype(a.q_type, [&](auto tag) { read_queries<typename decltype(tag)::type>(a, item, t); });
  clear_sums(t);
  item.direct ? attend_direct<T>(a, item, after, t) : attend_packed<T>(a, item, t);
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
