// What begins and ends a step: look up its inputs in the persistent rows, pick hidden states, draw and append tokens.
#pragma once

#include "sampling.h"
#include "simd.h"

namespace quire {

struct GatherStep {
  const int32_t* tokens;      // [seats, L]
  const int32_t* blocks;      // [seats, B]
  const int32_t* token_rows;  // [T]
  const int32_t* positions;   // [T]
  const int32_t* rows;        // [R]
  int64_t* token_ids;
  int64_t* wide_positions;
  int64_t* slots;
  int32_t* block_table;  // [R, num_blocks]
  int64_t token_stride, block_stride;
  int64_t num_tokens, num_rows, block_size, num_blocks;
};

inline void gather_step(const GatherStep& a) {
  for (int64_t t = 0; t < a.num_tokens; ++t) {
    const int64_t row = a.token_rows[t], position = a.positions[t];
    const int64_t block = a.blocks[row * a.block_stride + position / a.block_size];
    a.token_ids[t] = a.tokens[row * a.token_stride + position];
    a.wide_positions[t] = position;
    a.slots[t] = block * a.block_size + position % a.block_size;
  }
  for (int64_t r = 0; r < a.num_rows; ++r)
    std::memcpy(a.block_table + r * a.num_blocks, a.blocks + a.rows[r] * a.block_stride,
                static_cast<size_t>(a.num_blocks) * sizeof(int32_t));
}

struct SelectRows {
  const void* hidden;  // [T, n]
  const int32_t* index;
  void* selected;  // [rows, n]
  bool* finite;
  int64_t type, rows, n;
};

template <class T>
inline void select_rows(const SelectRows& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const T* from = static_cast<const T*>(a.hidden) + a.index[r] * a.n;
    std::memcpy(static_cast<T*>(a.selected) + r * a.n, from, static_cast<size_t>(a.n) * sizeof(T));
    Vec difference = zero();  // x - x is 0, and NaN where x is not finite
    for_vectors(
        a.n, [&](int64_t i) { difference = difference + (load(from + i) - load(from + i)); },
        [&](int64_t i, int64_t count) {
          const Vec last = load_first(from + i, count);
          difference = difference + (last - last);
        });
    a.finite[r] = reduce_add(difference) == 0;
  }
}

struct DrawTokens {
  const float* logits;  // [S, V]
  const float* temperature;  // by row of the tables
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const int64_t* seeds;
  const int32_t* rows;       // [S]
  const int32_t* positions;  // [S]
  int32_t* tokens;           // [seats, L]
  int64_t* chosen;           // [S]
  int64_t logits_stride, token_stride, count, vocab_size, threads;
};

// Draw with the settings of each row, then append; in order, so that of several tokens for one place the last stays.
inline void draw_tokens(const DrawTokens& a) {
  parallel_for(a.count, a.threads, [&](int64_t i) {
    const int64_t row = a.rows[i];
    const SampleSettings settings{a.temperature[row], a.top_k[row], a.top_p[row], a.min_p[row], a.seeds[row],
                                  a.positions[i]};
    a.chosen[i] = detail::sample_row(a.logits + i * a.logits_stride, a.vocab_size, settings);
  });
  for (int64_t i = 0; i < a.count; ++i)
    a.tokens[a.rows[i] * a.token_stride + a.positions[i]] = static_cast<int32_t>(a.chosen[i]);
}

}  // namespace quire
