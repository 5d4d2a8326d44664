// Element types as torch stores them, and the switch from a run-time dtype code to a compile-time type.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire {

struct bf16 {
  uint16_t bits;
};

struct fp16 {
  uint16_t bits;
};

// Codes that the Python side passes; keep in step with library.py.
enum DType : int64_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

template <class T>
struct Type {
  using type = T;
};

// Call `body(Type<T>{})` with the element type that `dtype` stands for.
template <class F>
inline void with_dtype(int64_t dtype, F&& body) {
  switch (dtype) {
    case kBFloat16:
      return body(Type<bf16>{});
    case kFloat16:
      return body(Type<fp16>{});
    default:
      return body(Type<float>{});
  }
}

// The same for two types at once: `body(Type<A>{}, Type<B>{})`.
template <class F>
inline void with_dtypes(int64_t first, int64_t second, F&& body) {
  with_dtype(first, [&](auto a) { with_dtype(second, [&](auto b) { body(a, b); }); });
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
template <class T>
inline T min_of(T a, T b) {
  return a < b ? a : b;
}
template <class T>
inline T max_of(T a, T b) {
  return a > b ? a : b;
}

}  // namespace quire
