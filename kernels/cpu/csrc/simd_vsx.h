// What simd.h needs an intrinsic for on POWER: VSX from POWER8 on, half precision from POWER9, bf16 from POWER10.
#pragma once

#if !defined(__LITTLE_ENDIAN__)
#error "ppc64le only: halves are widened in little-endian order"
#endif

#include <altivec.h>
#undef vector  // macros of altivec.h that C++ has other uses for
#undef pixel
#undef bool

#include <cstdint>
#include <cstring>

#include "types.h"

namespace quire {
namespace vsx {

typedef __vector float Floats;
typedef __vector unsigned int Words;
typedef __vector unsigned short Halves;

// Four halves, twice: one load with splat.
inline Halves load_halves(const void* p) {
  unsigned long long four;
  std::memcpy(&four, p, sizeof(four));
  return reinterpret_cast<Halves>(vec_splats(four));
}

// The first four halves of v.
inline void store_halves(void* p, Halves v) {
  const unsigned long long four = reinterpret_cast<__vector unsigned long long>(v)[0];
  std::memcpy(p, &four, sizeof(four));
}

inline Floats load(const bf16* p) { return reinterpret_cast<Floats>(vec_mergeh(Halves{}, load_halves(p))); }

// As to_float(fp16), in four lanes.
inline Floats load(const fp16* p) {
#if defined(_ARCH_PWR9)
  return vec_extract_fp32_from_shorth(load_halves(p));
#else
  const Words half = reinterpret_cast<Words>(vec_mergeh(load_halves(p), Halves{}));
  const Words sign = (half & 0x8000u) << 16, magnitude = (half & 0x7fffu) << 13;
  const Words special = reinterpret_cast<Words>(magnitude >= (0x7c00u << 13));
  const Floats scale = reinterpret_cast<Floats>((special & 0x3f800000u) | (~special & 0x77800000u));  // 1 or 2^112
  const Floats value = reinterpret_cast<Floats>(magnitude | (special & 0x7f800000u)) * scale;
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(value) | sign);
#endif
}

// Round to nearest even; NaN stays NaN.
inline void store(bf16* p, Floats v) {
#if defined(_ARCH_PWR10)
  typedef __vector unsigned char Bytes;
  const Words rounded = reinterpret_cast<Words>(__builtin_vsx_xvcvspbf16(reinterpret_cast<Bytes>(v)));
#else
  const Words bits = reinterpret_cast<Words>(v);
  const Words number = reinterpret_cast<Words>(v == v);
  const Words rounded = ((number & (bits + 0x7fffu + ((bits >> 16) & 1u))) | (~number & (bits | 0x400000u))) >> 16;
#endif
  store_halves(p, vec_pack(rounded, rounded));
}

#if defined(_ARCH_PWR9)
inline void store(fp16* p, Floats v) { store_halves(p, vec_pack_to_short_fp32(v, v)); }
#endif

inline float reduce_add(Floats v) {
  v = v + __builtin_shuffle(v, Words{2, 3, 0, 1});
  return v[0] + v[1];
}

// The 64-bit products of lanes 0 and 2, and of 1 and 3.
struct Products {
  Words even, odd;
};

inline Products multiply_wide(Words a, uint32_t b) {
  const Words factor = vec_splats(b);
  return {reinterpret_cast<Words>(vec_mule(a, factor)), reinterpret_cast<Words>(vec_mulo(a, factor))};
}

}  // namespace vsx
}  // namespace quire
