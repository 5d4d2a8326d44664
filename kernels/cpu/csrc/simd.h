// A vector of floats. With products.h the only file that knows instruction sets (POWER's: simd_vsx.h, mma.h).
//
// `Vec` is a vector of the compiler (GCC, Clang): + - * / and comparisons work on it on every target. What the compiler
// cannot say portably has an intrinsic here, chosen by the macros that -m flags set. Each variant is compiled to a
// shared library of its own, so no inline function compiled for one can be called on a machine of another.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__VSX__)
#include "simd_vsx.h"
#endif

#include "types.h"

namespace quire {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
constexpr int kRegisters = 32;
constexpr int kTileRows = 12;  // register block of a product: 12 x 2
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kRegisters = 16;
constexpr int kTileRows = 6;  // 6 x 2
#elif defined(__VSX__)
constexpr int kWidth = 4;
constexpr int kRegisters = 64;
#if defined(__MMA__)
constexpr int kTileRows = 16;  // 8 accumulators of 4 x 4
#else
constexpr int kTileRows = 12;  // 12 x 2
#endif
#else
constexpr int kWidth = 8;  // two 16-byte registers (SSE2, AltiVec)
constexpr int kRegisters = 8;
constexpr int kTileRows = 4;
#endif
constexpr int kTileVecs = 2;

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef int32_t IVec __attribute__((vector_size(kWidth * 4)));
typedef uint32_t UVec __attribute__((vector_size(kWidth * 4)));
typedef uint16_t HVec __attribute__((vector_size(kWidth * 2)));

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline Vec set1(float x) { return x - Vec{}; }
inline Vec zero() { return Vec{}; }

inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__VSX__)
  return vec_madd(a, b, c);
#else
  return a * b + c;
#endif
}

// The second operand where either is NaN, on every target.
inline Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

inline Vec min(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

inline float reduce_add(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#elif defined(__VSX__)
  return vsx::reduce_add(v);
#else
  float lanes[kWidth];
  std::memcpy(lanes, &v, sizeof(v));
  for (int n = kWidth / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) lanes[i] += lanes[i + n];
  return lanes[0];
#endif
}

inline float reduce_max(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(v);
#else
  float lanes[kWidth];
  std::memcpy(lanes, &v, sizeof(v));
  for (int i = 1; i < kWidth; ++i) lanes[0] = max_of(lanes[0], lanes[i]);
  return lanes[0];
#endif
}

// -- single elements ---------------------------------------------------------------------------------------------

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// IEEE half, by exponent arithmetic: also right for subnormals, infinities and NaN.
inline float to_float(fp16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  const bool special = magnitude >= (0x7c00u << 13);
  const uint32_t bits = special ? magnitude | 0x7f800000u : magnitude;
  const float value = bit_cast<float>(bits) * (special ? 1.0f : 0x1p112f);
  return bit_cast<float>(bit_cast<uint32_t>(value) | sign);
}

template <class T>
inline T from_float(float x);

template <>
inline float from_float<float>(float x) {
  return x;
}

// Round to nearest even; NaN stays NaN.
template <>
inline bf16 from_float<bf16>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// Round to nearest even: adding a power of two lets the hardware round at the bit that fp16 keeps.
template <>
inline fp16 from_float<fp16>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                                                 // subnormal in fp16
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (bit_cast<uint32_t>(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

// -- loads and stores, converting --------------------------------------------------------------------------------

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

inline Vec load(const bf16* p) {
#if defined(__AVX512F__)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#elif defined(__AVX2__)
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#elif defined(__VSX__)
  return vsx::load(p);
#else
  HVec half;
  std::memcpy(&half, p, sizeof(half));
  return bit_cast<Vec>(__builtin_convertvector(half, UVec) << 16);
#endif
}

inline Vec load(const fp16* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__VSX__)
  return vsx::load(p);
#else
  float lanes[kWidth];
  for (int i = 0; i < kWidth; ++i) lanes[i] = to_float(p[i]);
  return load(lanes);
#endif
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof(v)); }

inline void store(bf16* p, Vec v) {
#if defined(__AVX512BF16__)
  const __m256bh half = _mm512_cvtneps_pbh(v);
  std::memcpy(p, &half, sizeof(half));
#elif defined(__VSX__)
  vsx::store(p, v);
#else
  const UVec bits = bit_cast<UVec>(v);
  const UVec rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const UVec quiet = bits | 0x400000u;
  const UVec chosen = v == v ? rounded : quiet;
  const HVec half = __builtin_convertvector(chosen >> 16, HVec);
  std::memcpy(p, &half, sizeof(half));
#endif
}

inline void store(fp16* p, Vec v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(_ARCH_PWR9)
  vsx::store(p, v);
#else
  for (int i = 0; i < kWidth; ++i) p[i] = from_float<fp16>(v[i]);
#endif
}

// The first `count` < kWidth elements; the others are zero.
template <class T>
inline Vec load_first(const T* p, int64_t count) {
  T lanes[kWidth] = {};
  std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(T));
  return load(lanes);
}

template <class T>
inline void store_first(T* p, Vec v, int64_t count) {
  T lanes[kWidth];
  store(lanes, v);
  std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(T));
}

// Go over n elements: `whole(offset)` for each full vector, then `rest(offset, count)` if some are left.
template <class Whole, class Rest>
inline void for_vectors(int64_t n, Whole&& whole, Rest&& rest) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) whole(i);
  if (i < n) rest(i, n - i);
}

// Convert n elements; between equal types the bits stay as they are.
template <class From, class To>
inline void convert(const From* from, To* to, int64_t n) {
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(To));
  } else {
    for_vectors(
        n, [&](int64_t i) { store(to + i, load(from + i)); },
        [&](int64_t i, int64_t count) { store_first(to + i, load_first(from + i, count), count); });
  }
}

// to = from * factor, n elements as floats.
template <class T>
inline void scale_to(const T* from, float factor, float* to, int64_t n) {
  for_vectors(
      n, [&](int64_t i) { store(to + i, load(from + i) * set1(factor)); },
      [&](int64_t i, int64_t count) { store_first(to + i, load_first(from + i, count) * set1(factor), count); });
}

// -- integers ----------------------------------------------------------------------------------------------------

struct WideProduct {
  UVec high, low;
};

// The 64-bit products of 32-bit lanes.
inline WideProduct multiply_wide(UVec a, uint32_t b) {
#if defined(__AVX512F__)
  const __m512i x = bit_cast<__m512i>(a), y = _mm512_set1_epi32(static_cast<int>(b));
  const __m512i even = _mm512_mul_epu32(x, y), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), y);
  return {bit_cast<UVec>(_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd)),
          bit_cast<UVec>(_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32)))};
#elif defined(__AVX2__)
  const __m256i x = bit_cast<__m256i>(a), y = _mm256_set1_epi32(static_cast<int>(b));
  const __m256i even = _mm256_mul_epu32(x, y), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), y);
  return {bit_cast<UVec>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa)),
          bit_cast<UVec>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa))};
#elif defined(__VSX__)
  const vsx::Products products = vsx::multiply_wide(a, b);
  return {__builtin_shuffle(products.even, products.odd, UVec{1, 5, 3, 7}),
          __builtin_shuffle(products.even, products.odd, UVec{0, 4, 2, 6})};
#else
  WideProduct product;
  for (int i = 0; i < kWidth; ++i) {
    const uint64_t wide = static_cast<uint64_t>(a[i]) * b;
    product.high[i] = static_cast<uint32_t>(wide >> 32);
    product.low[i] = static_cast<uint32_t>(wide);
  }
  return product;
#endif
}

// -- shuffles ----------------------------------------------------------------------------------------------------

namespace detail {
template <int Start, int... I>
inline Vec interleave(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (Start + I / 2 + (I % 2) * kWidth)...);
}
}  // namespace detail

// a0 b0 a1 b1 … of the lower halves, and of the upper halves.
inline Vec interleave_low(Vec a, Vec b) {
  return detail::interleave<0>(a, b, std::make_integer_sequence<int, kWidth>{});
}
inline Vec interleave_high(Vec a, Vec b) {
  return detail::interleave<kWidth / 2>(a, b, std::make_integer_sequence<int, kWidth>{});
}

namespace detail {
template <int Distance, int... I>
inline Vec rotate(Vec v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, ((I + Distance) % kWidth)...);
}

// Add lanes that are `Distance`, 2 * Distance, … apart; the sums are in the first `Distance` lanes.
template <int Distance>
inline Vec fold(Vec v) {
  if constexpr (Distance < kWidth) {
    v = fold<2 * Distance>(v);
    v = v + rotate<Distance>(v, std::make_integer_sequence<int, kWidth>{});
  }
  return v;
}
}  // namespace detail

// Lane i of the result is the sum of v[i]'s lanes, for N vectors (a power of two, up to kWidth): each round adds pairs
// while it interleaves them, so all sums together cost N - 1 additions.
template <int N>
inline Vec reduce_add_all(Vec (&v)[N]) {
#pragma GCC unroll 4
  for (int half = N / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) v[i] = interleave_low(v[i], v[i + half]) + interleave_high(v[i], v[i + half]);
  return detail::fold<N>(v[0]);
}

// Transpose a kWidth x kWidth square: log2(kWidth) rounds of a perfect shuffle.
inline void transpose(Vec (&rows)[kWidth]) {
  for (int round = 1; round < kWidth; round *= 2) {
    Vec next[kWidth];
    for (int i = 0; i < kWidth / 2; ++i) {
      next[2 * i] = interleave_low(rows[i], rows[i + kWidth / 2]);
      next[2 * i + 1] = interleave_high(rows[i], rows[i + kWidth / 2]);
    }
    for (int i = 0; i < kWidth; ++i) rows[i] = next[i];
  }
}

}  // namespace quire
