// How elements are multiplied and added up: in floats, or in pairs of bf16 where the processor has that.
#pragma once

#include "simd.h"

namespace quire {

// How rows of x are multiplied with rows of W elements: `kStep` elements at a time into one accumulator. `read` takes so
// many that lie together; `broadcast` repeats the kStep / kWidth elements that one lane multiplies.
template <class W>
struct FloatProduct {
  using X = float;
  using Wt = W;
  using Operand = Vec;
  static constexpr int kStep = kWidth;
  template <class T>
  static Vec read(const T* p) {
    return load(p);
  }
  template <class T>
  static Vec read_first(const T* p, int64_t count) {
    return load_first(p, count);
  }
  static Vec broadcast(const float* p) { return set1(*p); }
  static Vec accumulate(Vec sum, Vec x, Vec w) { return fma(x, w, sum); }
};

#if defined(__AVX512BF16__)
// Pairs of bf16 multiplied and added by one instruction, at twice the rate of fp32.
struct PairProduct {
  using X = bf16;
  using Wt = bf16;
  using Operand = __m512bh;
  static constexpr int kStep = 32;
  static Operand read(const bf16* p) {
    Operand v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static Operand read_first(const bf16* p, int64_t count) {
    bf16 lanes[kStep] = {};
    std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(bf16));
    return read(lanes);
  }
  // One pair in every lane.
  static Operand broadcast(const bf16* p) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof(pair));
    return bit_cast<Operand>(_mm512_set1_epi32(pair));
  }
  static Vec accumulate(Vec sum, Operand x, Operand w) { return _mm512_dpbf16_ps(sum, x, w); }
};
#elif defined(__VSX__)
// Pairs of bf16: half of each word is widened by a shift, the other by a mask.
struct PairProduct {
  using X = bf16;
  using Wt = bf16;
  using Operand = UVec;
  static constexpr int kStep = 8;
  static Operand read(const bf16* p) {
    Operand v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static Operand read_first(const bf16* p, int64_t count) {
    bf16 lanes[kStep] = {};
    std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(bf16));
    return read(lanes);
  }
  // One pair in every lane.
  static Operand broadcast(const bf16* p) {
    uint32_t pair;
    std::memcpy(&pair, p, sizeof(pair));
    return UVec{} + pair;
  }
  static Vec accumulate(Vec sum, Operand x, Operand w) {
    sum = fma(bit_cast<Vec>(x << 16), bit_cast<Vec>(w << 16), sum);
    return fma(bit_cast<Vec>(x & 0xffff0000u), bit_cast<Vec>(w & 0xffff0000u), sum);
  }
};
#endif

}  // namespace quire
