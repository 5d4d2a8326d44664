// Transcendental functions of vectors, written once for every instruction set.
#pragma once

#include "simd.h"

namespace quire {

// e^x to about 1 ulp: x = n ln 2 + r, a polynomial in r, then n added to the exponent. -inf gives 0, NaN gives NaN.
inline Vec exp(Vec x) {
  const Vec clamped = min(max(x, set1(-87.9f)), set1(88.8f));
  const Vec magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = fma(clamped, set1(1.44269504088896341f), magic);
  const Vec n = shifted - magic;
  const Vec r = fma(n, set1(-1.42860682030941723e-6f), fma(n, set1(-0.693145751953125f), clamped));
  Vec p = set1(1.0f / 5040);
  p = fma(p, r, set1(1.0f / 720));
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  const IVec exponent = (bit_cast<IVec>(shifted) - bit_cast<IVec>(magic) + 127) << 23;
  const Vec result = p * bit_cast<Vec>(exponent);
  return x == x ? result : x;
}

// tanh x: an odd polynomial near 0 (Cephes), where 1 - 2 / (e^2x + 1) would cancel.
inline Vec tanh(Vec x) {
  const Vec square = x * x;
  Vec p = set1(-5.70498872745e-3f);
  p = fma(p, square, set1(2.06390887954e-2f));
  p = fma(p, square, set1(-5.37397155531e-2f));
  p = fma(p, square, set1(1.33314422036e-1f));
  p = fma(p, square, set1(-3.33332819422e-1f));
  const Vec near = fma(p * square, x, x);
  const Vec far = set1(1.0f) - set1(2.0f) / (exp(x + x) + set1(1.0f));
  return square < set1(0.390625f) ? near : far;
}

// ln x for normal x > 0, to about 1 ulp: x = 2^n m with m near 1, a polynomial in m - 1 (Cephes).
inline Vec log(Vec x) {
  const IVec bits = bit_cast<IVec>(x);
  const IVec n = (bits - 0x3f3504f3) >> 23;  // m in [sqrt(1/2), sqrt(2))
  const Vec m = bit_cast<Vec>(bits - (n << 23)) - set1(1.0f);
  const Vec exponent = __builtin_convertvector(n, Vec), square = m * m;
  Vec p = set1(7.0376836292e-2f);
  p = fma(p, m, set1(-1.1514610310e-1f));
  p = fma(p, m, set1(1.1676998740e-1f));
  p = fma(p, m, set1(-1.2420140846e-1f));
  p = fma(p, m, set1(1.4249322787e-1f));
  p = fma(p, m, set1(-1.6668057665e-1f));
  p = fma(p, m, set1(2.0000714765e-1f));
  p = fma(p, m, set1(-2.4999993993e-1f));
  p = fma(p, m, set1(3.3333331174e-1f));
  const Vec tail = fma(exponent, set1(-2.12194440e-4f), fma(square, set1(-0.5f), p * m * square));
  return fma(exponent, set1(0.693359375f), m + tail);
}

}  // namespace quire
