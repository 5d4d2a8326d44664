// Choosing tokens: penalties, filters, and the exponential race with Philox noise. `quire.ops.philox` defines the noise
// and `quire.ops.reference.sampling` the filters; every filter is a threshold on logit / temperature.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "parallel.h"
#include "simd.h"

namespace quire {

struct Sample {
  const float* logits;  // [R, V]
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const int64_t* seeds;
  const int64_t* positions;
  int64_t* tokens;
  int64_t row_stride, rows, vocab_size;
  int64_t threads;
};

namespace detail {

constexpr float kMaxNoise = 22.88f;  // MAX_NOISE of quire.ops.philox
constexpr float kNone = -std::numeric_limits<float>::infinity();

// The largest score so far in each lane, and its token.
struct Best {
  Vec score = set1(kNone);
  IVec token{};

  void offer(Vec other, IVec tokens) {
    token = other > score ? tokens : token;
    score = other > score ? other : score;
  }

  // The token of the largest score, the lowest of equals.
  int64_t winner() const {
    const float highest = reduce_max(score);
    int32_t lowest = std::numeric_limits<int32_t>::max();
    for (int i = 0; i < kWidth; ++i)
      if (score[i] == highest) lowest = min_of(lowest, static_cast<int32_t>(token[i]));
    return lowest == std::numeric_limits<int32_t>::max() ? 0 : lowest;
  }
};

inline IVec lane_numbers() {
  IVec lanes;
  for (int i = 0; i < kWidth; ++i) lanes[i] = i;
  return lanes;
}

// The last elements of a row, others -inf.
inline Vec load_scores(const float* scores, int64_t count) {
  if (count >= kWidth) return load(scores);
  float lanes[kWidth];
  for (int i = 0; i < kWidth; ++i) lanes[i] = i < count ? scores[i] : kNone;
  return load(lanes);
}

inline int64_t argmax(const float* logits, int64_t n) {
  Best best;
  const IVec lanes = lane_numbers();
  for (int64_t v = 0; v < n; v += kWidth) best.offer(load_scores(logits + v, n - v), lanes + static_cast<int32_t>(v));
  return best.winner();
}

// scaled = logits / temperature; return the largest.
inline float scale_row(const float* logits, float temperature, float* scaled, int64_t n) {
  Vec highest = set1(kNone);
  for_vectors(
      n,
      [&](int64_t v) {
        const Vec x = load(logits + v) / set1(temperature);
        store(scaled + v, x);
        highest = max(x, highest);
      },
      [&](int64_t v, int64_t count) {
        for (int64_t i = v; i < v + count; ++i) scaled[i] = logits[i] / temperature;
        highest = max(load_scores(scaled + v, count), highest);
      });
  return reduce_max(highest);
}

// Sum of e^(score - highest) over scores of at least `threshold`.
inline double mass_above(const float* scores, int64_t n, float highest, float threshold) {
  double total = 0;
  for (int64_t first = 0; first < n; first += 4096) {
    Vec part = zero();
    const int64_t last = min_of(n, first + 4096);
    for (int64_t v = first; v < last; v += kWidth) {
      const Vec score = load_scores(scores + v, last - v);
      part = part + (score >= set1(threshold) ? exp(score - set1(highest)) : zero());
    }
    total += reduce_add(part);
  }
  return total;
}

struct Filter {
  int64_t top_k;  // 0: off
  float top_p;    // 1: off
};

// Sort the scores of at least `cut`, highest first.
inline void collect_sorted(const float* scores, int64_t n, float cut, std::vector<float>& ranked) {
  ranked.clear();
  for (int64_t v = 0; v < n; ++v)
    if (scores[v] >= cut) ranked.push_back(scores[v]);
  std::sort(ranked.begin(), ranked.end(), std::greater<float>());
}

// The lowest score of the nucleus: those whose higher scores hold less than top_p of the mass. NaN if `ranked` ends first.
inline float nucleus_threshold(const std::vector<float>& ranked, float highest, double total, float top_p) {
  double above = 0;
  for (size_t i = 0; i < ranked.size(); ++i) {
    if (above / total >= top_p) return ranked[i - 1];
    above += std::exp(ranked[i] - highest);
  }
  return std::numeric_limits<float>::quiet_NaN();
}

// The smallest score that top-k and then top-p keep, among those of at least `floor`. Only the head of the row is sorted:
// scores within a margin of the highest, which is widened until it holds all that is kept.
inline float truncation_threshold(const float* scores, int64_t n, float highest, float floor, Filter filter) {
  static thread_local std::vector<float> ranked;
  for (float margin = 8.0f;; margin *= 2) {
    const bool whole = margin > 256.0f || highest - margin <= floor;
    collect_sorted(scores, n, whole ? floor : highest - margin, ranked);
    const bool limited = filter.top_k > 0 && filter.top_k <= static_cast<int64_t>(ranked.size());
    if (filter.top_k > 0 && !limited && !whole) continue;
    const float kth = limited ? ranked[filter.top_k - 1] : floor;
    if (filter.top_p >= 1) return kth;
    while (!ranked.empty() && ranked.back() < kth) ranked.pop_back();
    const float nucleus = nucleus_threshold(ranked, highest, mass_above(scores, n, highest, kth), filter.top_p);
    if (nucleus == nucleus) return nucleus;
    if (limited || whole) return kth;
  }
}

struct PhiloxKey {
  uint32_t low, high;
};

// Philox4x32-10: four words for each of kWidth consecutive counters.
inline void philox(UVec counter, int64_t position, PhiloxKey key, UVec (&words)[4]) {
  const uint64_t where = static_cast<uint64_t>(position);
  UVec c0 = counter, c1 = UVec{} + static_cast<uint32_t>(where), c2 = UVec{} + static_cast<uint32_t>(where >> 32), c3{};
  for (int round = 0; round < 10; ++round) {
    const WideProduct a = multiply_wide(c0, 0xD2511F53u), b = multiply_wide(c2, 0xCD9E8D57u);
    c0 = b.high ^ c1 ^ key.low;
    c1 = b.low;
    c2 = a.high ^ c3 ^ key.high;
    c3 = a.low;
    key = {key.low + 0x9E3779B9u, key.high + 0xBB67AE85u};
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// Words by counter become words by token: token 4 c + r takes word r of counter c.
inline void order_by_token(UVec (&words)[4]) {
  const Vec w[4] = {bit_cast<Vec>(words[0]), bit_cast<Vec>(words[1]), bit_cast<Vec>(words[2]), bit_cast<Vec>(words[3])};
  const Vec low_even = interleave_low(w[0], w[2]), low_odd = interleave_low(w[1], w[3]);
  const Vec high_even = interleave_high(w[0], w[2]), high_odd = interleave_high(w[1], w[3]);
  words[0] = bit_cast<UVec>(interleave_low(low_even, low_odd));
  words[1] = bit_cast<UVec>(interleave_high(low_even, low_odd));
  words[2] = bit_cast<UVec>(interleave_low(high_even, high_odd));
  words[3] = bit_cast<UVec>(interleave_high(high_even, high_odd));
}

// -ln E of each word, E exponential.
inline Vec noise(UVec word) {
  const Vec uniform = fma(__builtin_convertvector(word, Vec), set1(0x1p-32f), set1(0x1p-33f));
  const Vec u = min(uniform, set1(1.0f - 0x1p-24f));
  const Vec w = set1(1.0f) - u;
  const Vec exponential = w == set1(1.0f) ? u : (zero() - log(w)) * (u / (set1(1.0f) - w));
  return zero() - log(exponential);
}

// The winner of scaled + noise among scores of at least `threshold`.
inline int64_t race(const float* scaled, int64_t n, float threshold, int64_t position, PhiloxKey key) {
  Best best;
  float leader = kNone;
  const IVec lanes = lane_numbers();
  for (int64_t first = 0; first < n; first += 4 * kWidth) {
    Vec scores[4], highest = set1(kNone);
    for (int r = 0; r < 4; ++r) {
      const int64_t v = first + r * kWidth;
      const Vec score = load_scores(scaled + min_of(v, n), n - v);
      scores[r] = score >= set1(threshold) ? score : set1(kNone);
      highest = max(scores[r], highest);
    }
    if (reduce_max(highest) + kMaxNoise < leader || reduce_max(highest) == kNone) continue;
    UVec words[4];
    philox(bit_cast<UVec>(lanes) + static_cast<uint32_t>(first / 4), position, key, words);
    order_by_token(words);
    for (int r = 0; r < 4; ++r)
      best.offer(scores[r] + noise(words[r]), lanes + static_cast<int32_t>(first + r * kWidth));
    leader = reduce_max(best.score);
  }
  return best.winner();
}

inline int64_t sample_row(const Sample& a, int64_t row) {
  const float* logits = a.logits + row * a.row_stride;
  const int64_t n = a.vocab_size;
  if (!(a.temperature[row] > 0)) return argmax(logits, n);
  float* scaled = scratch<float>(0, n);
  const float highest = scale_row(logits, a.temperature[row], scaled, n);
  float threshold = a.min_p[row] > 0 ? highest + std::log(a.min_p[row]) : kNone;
  const Filter filter{a.top_k[row], a.top_p[row]};
  if (filter.top_k > 0 || filter.top_p < 1)
    threshold = max_of(threshold, truncation_threshold(scaled, n, highest, threshold, filter));
  const uint64_t seed = static_cast<uint64_t>(a.seeds[row]);
  return race(scaled, n, threshold, a.positions[row],
              {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

}  // namespace detail

inline void sample(const Sample& a) {
  parallel_for(a.rows, a.threads, [&](int64_t row) { a.tokens[row] = detail::sample_row(a, row); });
}

struct Penalties {
  float* logits;               // [R, V]
  const uint8_t* prompt_mask;  // [R, V]
  const int32_t* counts;       // [R, V]
  const float* presence;
  const float* frequency;
  const float* repetition;
  int64_t rows, vocab_size, threads;
};

namespace detail {
inline void penalize_row(float* logits, const uint8_t* in_prompt, const int32_t* counts, int64_t n, float presence,
                         float frequency, float repetition) {
  for (int64_t v = 0; v < n; ++v) {
    const bool seen = counts[v] > 0;
    const float factor = in_prompt[v] || seen ? repetition : 1.0f;
    const float logit = logits[v] > 0 ? logits[v] / factor : logits[v] * factor;
    logits[v] = logit - frequency * static_cast<float>(counts[v]) - (seen ? presence : 0.0f);
  }
}
}  // namespace detail

// Repetition, then frequency and presence penalties, in place.
inline void apply_penalties(const Penalties& a) {
  parallel_for(a.rows, a.threads, [&](int64_t row) {
    const int64_t first = row * a.vocab_size;
    detail::penalize_row(a.logits + first, a.prompt_mask + first, a.counts + first, a.vocab_size, a.presence[row],
                         a.frequency[row], a.repetition[row]);
  });
}

}  // namespace quire
