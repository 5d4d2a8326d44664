// Mixture of SwiGLU experts: tokens are sorted by expert, and each expert's weights are streamed once for all its tokens.
#pragma once

#include "layer.h"
#include "linear.h"

namespace quire {

struct Moe {
  const void* x;         // [T, H]
  const float* shares;   // [T, k]
  const int64_t* experts;  // [T, k]
  const void* gate_up;   // [E, 2 I, H]
  const void* down;      // [E, H, I]
  void* out;             // [T, H]
  int64_t type;
  int64_t tokens, top_k, num_experts, hidden, inner;
  int64_t threads;
};

namespace detail {

// The pairs (token, choice) of one expert: [first, first + count) in sorted order.
struct ExpertGroup {
  int64_t expert, first, count;
};

struct Routing {
  std::vector<ExpertGroup> groups;
  std::vector<int64_t> pair_at;   // sorted position -> pair
  std::vector<int64_t> place_of;  // pair -> sorted position
};

inline Routing sort_by_expert(const int64_t* experts, int64_t pairs, int64_t num_experts) {
  Routing routing;
  std::vector<int64_t> next(static_cast<size_t>(num_experts) + 1);
  for (int64_t pair = 0; pair < pairs; ++pair) ++next[experts[pair] + 1];
  for (int64_t e = 0; e < num_experts; ++e) {
    if (next[e + 1] > 0) routing.groups.push_back({e, next[e], next[e + 1]});
    next[e + 1] += next[e];
  }
  routing.pair_at.resize(static_cast<size_t>(pairs));
  routing.place_of.resize(static_cast<size_t>(pairs));
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const int64_t place = next[experts[pair]]++;
    routing.pair_at[place] = pair;
    routing.place_of[pair] = place;
  }
  return routing;
}

// Call `body(group, begin, end)` for runs of output rows of every group.
template <class F>
inline void for_expert_rows(const Routing& routing, int64_t rows, int64_t run, int64_t threads, F&& body) {
  const int64_t runs = ceil_div(rows, run);
  parallel_for(static_cast<int64_t>(routing.groups.size()) * runs, threads, [&](int64_t i) {
    const int64_t begin = i % runs * run;
    body(routing.groups[i / runs], begin, min_of(rows, begin + run));
  });
}

template <class P, class T>
inline void moe_tokens(const Moe& a) {
  using X = typename P::X;
  using W = typename P::Wt;
  const int64_t pairs = a.tokens * a.top_k;
  const Routing routing = sort_by_expert(a.experts, pairs, a.num_experts);
  X* x = scratch<X>(0, pairs * a.hidden);
  X* inner = scratch<X>(1, pairs * a.inner);
  float* outer = scratch<float>(2, pairs * a.hidden);
  parallel_runs(pairs, kGrainElements / a.hidden, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t place = begin; place < end; ++place)
      convert(static_cast<const T*>(a.x) + routing.pair_at[place] / a.top_k * a.hidden, x + place * a.hidden, a.hidden);
  });
  for_expert_rows(routing, a.inner, rows_per_run(a.hidden, sizeof(W), a.inner, a.threads), a.threads,
                  [&](const ExpertGroup& group, int64_t begin, int64_t end) {
                    const W* gate = static_cast<const W*>(a.gate_up) + (group.expert * 2 * a.inner + begin) * a.hidden;
                    const float* none = nullptr;
                    stream_gated<P>(x + group.first * a.hidden, group.count, a.hidden, gate, gate + a.inner * a.hidden,
                                    end - begin, none, none, kSilu, inner + group.first * a.inner + begin, a.inner);
                  });
  for_expert_rows(routing, a.hidden, rows_per_run(a.inner, sizeof(W), a.hidden, a.threads), a.threads,
                  [&](const ExpertGroup& group, int64_t begin, int64_t end) {
                    const W* down = static_cast<const W*>(a.down) + (group.expert * a.hidden + begin) * a.inner;
                    stream_rows<P>(inner + group.first * a.inner, a.inner, group.count, down, a.inner, end - begin,
                                   a.inner, outer + group.first * a.hidden + begin, a.hidden);
                  });
  parallel_runs(a.tokens, kGrainElements / a.hidden, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* sum = scratch<float>(4, a.hidden);
      std::memset(sum, 0, static_cast<size_t>(a.hidden) * sizeof(float));
      for (int64_t j = 0; j < a.top_k; ++j) {
        const float* part = outer + routing.place_of[t * a.top_k + j] * a.hidden;
        const float share = a.shares[t * a.top_k + j];
        for (int64_t h = 0; h < a.hidden; ++h) sum[h] += share * part[h];
      }
      convert(sum, static_cast<T*>(a.out) + t * a.hidden, a.hidden);
    }
  });
}

}  // namespace detail

// The mixture, some tokens at a time so that what lies between the products stays small.
template <class T>
inline void moe(const Moe& whole) {
  constexpr int64_t kElements = int64_t{1} << 23;
  const int64_t step = max_of<int64_t>(1, kElements / (whole.top_k * max_of(whole.hidden, whole.inner)));
  for (int64_t first = 0; first < whole.tokens; first += step) {
    Moe part = whole;
    part.tokens = min_of(step, whole.tokens - first);
    part.x = static_cast<const T*>(whole.x) + first * whole.hidden;
    part.out = static_cast<T*>(whole.out) + first * whole.hidden;
    part.shares = whole.shares + first * whole.top_k;
    part.experts = whole.experts + first * whole.top_k;
    detail::moe_tokens<StreamProduct<T>, T>(part);
  }
}

}  // namespace quire
