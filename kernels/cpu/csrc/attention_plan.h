// What paged attention is asked, and how it is cut into work items.
//
// A work item is some query tokens of one row, all query heads of one KV head, and a range of keys. Rows of few queries
// split their keys into runs of kSplitKeys, always at the same places, so that the answer does not depend on what else is
// in the batch or on the number of threads.
#pragma once

#include <limits>
#include <vector>

#include "simd.h"

namespace quire {

struct Attention {
  const void* query;
  const void* key_cache;
  const void* value_cache;
  void* out;  // [T, Hq, D] contiguous
  const int32_t* query_start;
  const int32_t* seq_lens;
  const int32_t* block_table;
  const float* sinks;  // per query head, or null
  int64_t q_type, kv_type;
  int64_t num_rows, num_heads, num_kv_heads, head_dim, block_size;
  int64_t q_token, q_head;             // strides in elements
  int64_t k_block, k_head, k_slot;
  int64_t v_block, v_head, v_slot;
  int64_t table_row;
  int64_t window;  // 0: none
  int64_t threads;
  double scale, soft_cap;  // soft_cap 0: none

  int64_t group() const { return num_heads / num_kv_heads; }
};

namespace detail {

constexpr int64_t kTileKeys = 64;      // keys scored at a time
constexpr int64_t kDirectQueries = 16; // up to this many (token, head) pairs keys are read in place, not transposed
constexpr int64_t kTileQueries = 6 * kTileRows;
constexpr int64_t kSplitKeys = 512;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

struct AttentionItem {
  bool direct;  // read keys in place, at most kSplitKeys of them
  int64_t row, kv_head;
  int64_t first_token, num_tokens;  // within the row
  int64_t first_key, last_key;      // [first, last)
  int64_t partial;                  // where to leave an unfinished result, in pairs; negative: finish it
};

// Which results of a row's runs of keys belong together.
struct AttentionMerge {
  int64_t row, kv_head, num_tokens, first_partial, num_runs;
};

struct AttentionWork {
  std::vector<AttentionItem> items;
  std::vector<AttentionMerge> merges;
  int64_t num_partials = 0;
  int64_t num_keys = 0;   // read, over all items
  int64_t num_pairs = 0;  // of tokens and keys, likewise

  void add(const AttentionItem& item) {
    items.push_back(item);
    num_keys += item.last_key - item.first_key;
    num_pairs += item.num_tokens * (item.last_key - item.first_key);
  }
};

inline void add_split_row(const Attention& a, int64_t row, int64_t tokens, int64_t first_key, int64_t seq_len,
                          AttentionWork& work) {
  const int64_t first_run = first_key / kSplitKeys;
  const int64_t runs = ceil_div(seq_len, kSplitKeys) - first_run;
  for (int64_t head = 0; head < a.num_kv_heads; ++head) {
    if (runs > 1) work.merges.push_back({row, head, tokens, work.num_partials, runs});
    for (int64_t run = first_run; run < first_run + runs; ++run) {
      const int64_t begin = max_of(first_key, run * kSplitKeys);
      const int64_t end = min_of(seq_len, (run + 1) * kSplitKeys);
      work.add({true, row, head, 0, tokens, begin, end, runs > 1 ? work.num_partials : -1});
      if (runs > 1) work.num_partials += tokens * a.group();
    }
  }
}

// Longest first: the last tokens of a prompt see the most keys.
inline void add_tiled_row(const Attention& a, int64_t row, int64_t tokens, int64_t seq_len, AttentionWork& work) {
  const int64_t step = max_of<int64_t>(1, kTileQueries / a.group());
  for (int64_t first = (ceil_div(tokens, step) - 1) * step; first >= 0; first -= step) {
    const int64_t count = min_of(step, tokens - first);
    const int64_t position = seq_len - tokens + first;
    const int64_t first_key = a.window > 0 ? max_of<int64_t>(0, position - a.window + 1) : 0;
    for (int64_t head = 0; head < a.num_kv_heads; ++head)
      work.add({false, row, head, first, count, first_key, position + count, -1});
  }
}

inline AttentionWork plan_attention(const Attention& a) {
  AttentionWork work;
  for (int64_t row = 0; row < a.num_rows; ++row) {
    const int64_t tokens = a.query_start[row + 1] - a.query_start[row];
    const int64_t seq_len = a.seq_lens[row];
    if (tokens <= 0 || seq_len <= 0) continue;
    const int64_t first_key = a.window > 0 ? max_of<int64_t>(0, seq_len - tokens - a.window + 1) : 0;
    if (tokens * a.group() <= kDirectQueries)
      add_split_row(a, row, tokens, first_key, seq_len, work);
    else
      add_tiled_row(a, row, tokens, seq_len, work);
  }
  return work;
}

}  // namespace detail
}  // namespace quire
