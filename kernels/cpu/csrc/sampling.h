// Choosing tokens: penalties, filters, and the exponential race with Philox noise. `quire.ops.philox` defines the noise
// and `quire.ops.reference.sampling` the filters; every filter is a threshold on logit / temperature.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "parallel.h"
#include "simd.h"
#include "vector_math.h"

namespace quire {

// How one row draws: top_k 0, top_p 1 and min_p 0 are off, temperature 0 takes the largest logit.
struct SampleSettings {
  float temperature;
  int64_t top_k;
  float top_p, min_p;
  int64_t seed, position;
};

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

// Scores of at least `floor` by their distance from the highest: how many, and their e^(score - highest). Finding a
// threshold then takes sorting one bucket, not the row.
struct Histogram {
  static constexpr int kBuckets = 2048;
  static constexpr float kPerUnit = 64;  // buckets for each unit of score; the last bucket takes all that is lower

  const float* scores;
  int64_t n;
  float highest;
  int64_t counts[kBuckets] = {};
  double masses[kBuckets] = {};
  uint16_t* bucket_of;  // per score; kBuckets: below the floor

  Histogram(const float* row, int64_t size, float top, float floor) : scores(row), n(size), highest(top) {
    bucket_of = scratch<uint16_t>(0, n + kWidth);
    for (int64_t v = 0; v < n; v += kWidth) add(v, floor);
  }

  void add(int64_t v, float floor) {
    const Vec score = load_scores(scores + v, n - v), weight = exp(score - set1(highest));
    const Vec place = min((set1(highest) - score) * set1(kPerUnit), set1(kBuckets - 1));
    const IVec index = score >= set1(floor) ? __builtin_convertvector(place, IVec) : IVec{} + kBuckets;
    for (int64_t i = 0; i < min_of<int64_t>(kWidth, n - v); ++i) {
      bucket_of[v + i] = static_cast<uint16_t>(index[i]);
      if (index[i] < kBuckets) counts[index[i]] += 1, masses[index[i]] += weight[i];
    }
  }

  // One bucket's scores of at least `floor`, highest first.
  const std::vector<float>& sorted(int bucket, float floor) const {
    static thread_local std::vector<float> ranked;
    ranked.clear();
    for (int64_t v = 0; v < n; ++v)
      if (bucket_of[v] == bucket && scores[v] >= floor) ranked.push_back(scores[v]);
    std::sort(ranked.begin(), ranked.end(), std::greater<float>());
    return ranked;
  }
};

// The k-th highest score; what is lower leaves the histogram. `floor` if there are fewer.
inline float cut_top_k(Histogram& h, int64_t k, float floor) {
  int64_t above = 0;
  int bucket = 0;
  for (; bucket < h.kBuckets && above + h.counts[bucket] < k; ++bucket) above += h.counts[bucket];
  if (bucket == h.kBuckets) return floor;
  const float kth = h.sorted(bucket, floor)[k - above - 1];
  std::fill(h.masses + bucket, h.masses + h.kBuckets, 0.0);
  for (float score : h.sorted(bucket, kth)) h.masses[bucket] += std::exp(score - h.highest);
  return kth;
}

// The lowest score of the nucleus: tokens whose higher ones hold less than `top_p` of the mass; the highest always stays.
inline float cut_top_p(const Histogram& h, float top_p, float floor) {
  double total = 0, above = 0;
  for (double mass : h.masses) total += mass;
  int bucket = 0;
  for (; bucket < h.kBuckets && above + h.masses[bucket] < top_p * total; ++bucket) above += h.masses[bucket];
  if (bucket == h.kBuckets) return floor;
  const std::vector<float>& ranked = h.sorted(bucket, floor);
  float lowest = above > 0 ? std::nextafter(ranked[0], h.highest) : ranked[0];
  for (float score : ranked) {
    if (above > 0 && above >= top_p * total) break;
    lowest = score;
    above += std::exp(score - h.highest);
  }
  return lowest;
}

// The smallest score that top-k (0: off) and then top-p (1: off) keep, among those of at least `floor`.
inline float truncation_threshold(const float* scores, int64_t n, float highest, float floor, int64_t top_k,
                                  float top_p) {
  Histogram histogram(scores, n, highest, floor);
  if (top_k > 0) floor = max_of(floor, cut_top_k(histogram, top_k, floor));
  return top_p < 1 ? max_of(floor, cut_top_p(histogram, top_p, floor)) : floor;
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

inline int64_t sample_row(const float* logits, int64_t n, const SampleSettings& a) {
  if (!(a.temperature > 0)) return argmax(logits, n);
  float* scaled = scratch<float>(0, n);
  const float highest = scale_row(logits, a.temperature, scaled, n);
  float threshold = a.min_p > 0 ? highest + std::log(a.min_p) : kNone;
  if (a.top_k > 0 || a.top_p < 1) threshold = truncation_threshold(scaled, n, highest, threshold, a.top_k, a.top_p);
  const uint64_t seed = static_cast<uint64_t>(a.seed);
  return race(scaled, n, threshold, a.position, {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

}  // namespace detail

inline void sample(const Sample& a) {
  parallel_for(a.rows, a.threads, [&](int64_t row) {
    const SampleSettings settings{a.temperature[row], a.top_k[row], a.top_p[row], a.min_p[row], a.seeds[row],
                                  a.positions[row]};
    a.tokens[row] = detail::sample_row(a.logits + row * a.row_stride, a.vocab_size, settings);
  });
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
