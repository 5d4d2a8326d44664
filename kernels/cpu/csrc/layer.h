// The ops between the matrix products: norms, rope, KV writes, activations, embedding.
#pragma once

#include <cmath>

#include "parallel.h"
#include "simd.h"

namespace quire {

// -- norms ---------------------------------------------------------------------------------------------------------

template <class T>
inline float sum_of_squares(const T* x, int64_t n) {
  Vec total = zero();
  for_vectors(
      n,
      [&](int64_t i) {
        const Vec v = load(x + i);
        total = fma(v, v, total);
      },
      [&](int64_t i, int64_t count) {
        const Vec v = load_first(x + i, count);
        total = fma(v, v, total);
      });
  return reduce_add(total);
}

// out = x / rms(x) * weight; `out` may be x.
template <class T, class W, class Out>
inline void rms_norm_row(const T* x, const W* weight, Out* out, int64_t n, float eps) {
  const Vec scale = set1(1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps));
  for_vectors(
      n, [&](int64_t i) { store(out + i, load(x + i) * scale * load(weight + i)); },
      [&](int64_t i, int64_t count) {
        store_first(out + i, load_first(x + i, count) * scale * load_first(weight + i, count), count);
      });
}

template <class T, class W>
inline void rms_norm(const T* x, const W* weight, T* out, int64_t rows, int64_t n, float eps, int64_t threads) {
  parallel_runs(rows, kGrainElements / n, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) rms_norm_row(x + r * n, weight, out + r * n, n, eps);
  });
}

// sum = residual + x, rounded to T; out = rms_norm of it.
template <class T, class W>
inline void add_rms_norm(const T* x, const T* residual, const W* weight, T* out, T* sum, int64_t rows, int64_t n,
                         float eps, int64_t threads) {
  parallel_runs(rows, kGrainElements / n, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *a = x + r * n, *b = residual + r * n;
      T* to = sum + r * n;
      for_vectors(
          n, [&](int64_t i) { store(to + i, load(a + i) + load(b + i)); },
          [&](int64_t i, int64_t count) {
            store_first(to + i, load_first(a + i, count) + load_first(b + i, count), count);
          });
      rms_norm_row(to, weight, out + r * n, n, eps);
    }
  });
}

// -- rope and KV ---------------------------------------------------------------------------------------------------

// Rotate the first rotary_dim dims of a head, halves against each other; the rest is copied. `to` may be `from`.
template <class From, class To>
inline void rope_head(const From* from, To* to, const float* cos_sin, int64_t rotary_dim, int64_t dim) {
  const int64_t half = rotary_dim / 2;
  const float *cosine = cos_sin, *sine = cos_sin + half;
  for_vectors(
      half,
      [&](int64_t i) {
        const Vec low = load(from + i), high = load(from + half + i), c = load(cosine + i), s = load(sine + i);
        store(to + i, low * c - high * s);
        store(to + half + i, high * c + low * s);
      },
      [&](int64_t i, int64_t count) {
        const Vec low = load_first(from + i, count), high = load_first(from + half + i, count);
        const Vec c = load_first(cosine + i, count), s = load_first(sine + i, count);
        store_first(to + i, low * c - high * s, count);
        store_first(to + half + i, high * c + low * s, count);
      });
  if (static_cast<const void*>(from) == static_cast<const void*>(to)) return;
  for (int64_t d = rotary_dim; d < dim; ++d) to[d] = from_float<To>(to_float(from[d]));
}

struct Rope {
  const int64_t* positions;
  const float* cos_sin;
  int64_t rotary_dim;
  const float* at(int64_t token) const { return cos_sin + positions[token] * rotary_dim; }
};

template <class T>
inline void rope(T* query, T* key, const Rope& rope, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t dim,
                 int64_t q_token, int64_t q_head, int64_t k_token, int64_t k_head, int64_t threads) {
  parallel_runs(tokens, kGrainElements / ((heads + kv_heads) * dim), threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        T* head = query + t * q_token + h * q_head;
        rope_head(head, head, rope.at(t), rope.rotary_dim, dim);
      }
      for (int64_t h = 0; h < kv_heads; ++h) {
        T* head = key + t * k_token + h * k_head;
        rope_head(head, head, rope.at(t), rope.rotary_dim, dim);
      }
    }
  });
}

// A canonical cache view [num_blocks, num_kv_heads, block_size, head_dim]: element strides, last dim contiguous.
template <class T>
struct CacheView {
  T* data;
  int64_t block, head, slot;
  int64_t block_size;
  T* at(int64_t index, int64_t kv_head) const {
    return data + index / block_size * block + kv_head * head + index % block_size * slot;
  }
};

template <class T, class KV>
inline void kv_write(const T* key, const T* value, const CacheView<KV>& keys, const CacheView<KV>& values,
                     const int64_t* slots, int64_t tokens, int64_t kv_heads, int64_t dim, int64_t k_token,
                     int64_t k_head, int64_t v_token, int64_t v_head, int64_t threads) {
  parallel_runs(tokens, kGrainElements / (kv_heads * dim), threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (slots[t] < 0) continue;
      for (int64_t h = 0; h < kv_heads; ++h) {
        convert(key + t * k_token + h * k_head, keys.at(slots[t], h), dim);
        convert(value + t * v_token + h * v_head, values.at(slots[t], h), dim);
      }
    }
  });
}

template <class T>
struct QkvRopeWrite {
  const T* qkv;
  int64_t qkv_token;
  Rope rope;
  const float* q_norm;  // or null
  const float* k_norm;
  float eps;
  const int64_t* slots;
  T* query;  // [T, Hq, D] contiguous
  int64_t tokens, heads, kv_heads, dim;
};

// A head's norm weights as floats, in scratch memory of the calling thread; null stays null.
inline const float* norm_as_float(const void* weight, int64_t type, int64_t dim, int slot) {
  if (!weight) return nullptr;
  float* copy = scratch<float>(slot, dim);
  with_dtype(type, [&](auto tag) { convert(static_cast<const typename decltype(tag)::type*>(weight), copy, dim); });
  return copy;
}

namespace detail {
// Norm (if asked) and rotate one head in float, rounding once when it is stored.
template <class T, class To>
inline void norm_rope_head(const T* from, const float* norm, float eps, const float* cos_sin, int64_t rotary_dim,
                           int64_t dim, To* to) {
  if (!norm) return rope_head(from, to, cos_sin, rotary_dim, dim);
  float head[512];
  rms_norm_row(from, norm, head, dim, eps);
  rope_head(head, to, cos_sin, rotary_dim, dim);
}
}  // namespace detail

template <class T, class KV>
inline void qkv_rope_write(const QkvRopeWrite<T>& a, const CacheView<KV>& keys, const CacheView<KV>& values,
                           int64_t threads) {
  const int64_t width = (a.heads + 2 * a.kv_heads) * a.dim;
  parallel_runs(a.tokens, kGrainElements / width, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* row = a.qkv + t * a.qkv_token;
      for (int64_t h = 0; h < a.heads; ++h)
        detail::norm_rope_head(row + h * a.dim, a.q_norm, a.eps, a.rope.at(t), a.rope.rotary_dim, a.dim,
                               a.query + (t * a.heads + h) * a.dim);
      if (a.slots[t] < 0) continue;
      const T *key = row + a.heads * a.dim, *value = key + a.kv_heads * a.dim;
      for (int64_t h = 0; h < a.kv_heads; ++h) {
        detail::norm_rope_head(key + h * a.dim, a.k_norm, a.eps, a.rope.at(t), a.rope.rotary_dim, a.dim,
                               keys.at(a.slots[t], h));
        convert(value + h * a.dim, values.at(a.slots[t], h), a.dim);
      }
    }
  });
}

// -- activations ---------------------------------------------------------------------------------------------------

enum Activation : int64_t { kSilu = 0, kGelu = 1, kGeluTanh = 2 };

struct Silu {
  static Vec apply(Vec x) { return x / (set1(1.0f) + exp(zero() - x)); }
};

struct GeluTanh {
  static Vec apply(Vec x) {
    const Vec inner = set1(0.7978845608028654f) * fma(x * x * x, set1(0.044715f), x);
    return set1(0.5f) * x * (set1(1.0f) + tanh(inner));
  }
};

struct Gelu {
  static Vec apply(Vec x) {
    Vec y;
    for (int i = 0; i < kWidth; ++i) y[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678118654752f));
    return y;
  }
};

// out[r] = f(x[r, :n]) * x[r, n:]
template <class A, class T, class Out>
inline void gated_row(const T* x, Out* out, int64_t n) {
  for_vectors(
      n, [&](int64_t i) { store(out + i, A::apply(load(x + i)) * load(x + n + i)); },
      [&](int64_t i, int64_t count) {
        store_first(out + i, A::apply(load_first(x + i, count)) * load_first(x + n + i, count), count);
      });
}

template <class A, class T>
inline void gated(const T* x, T* out, int64_t rows, int64_t n, int64_t threads) {
  parallel_runs(rows, kGrainElements / n, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) gated_row<A>(x + r * 2 * n, out + r * n, n);
  });
}

// -- embedding -----------------------------------------------------------------------------------------------------

inline void embedding(const int64_t* ids, const char* weight, char* out, int64_t tokens, int64_t row_bytes,
                      int64_t threads) {
  parallel_runs(tokens, 4 * kGrainElements / row_bytes, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      std::memcpy(out + t * row_bytes, weight + ids[t] * row_bytes, static_cast<size_t>(row_bytes));
  });
}

}  // namespace quire
