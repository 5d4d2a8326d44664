// The ops between the matrix products: norms, rope, KV writes, activations, embedding.
#pragma once

#include <cmath>

#include "parallel.h"
#include "simd.h"
#include "vector_math.h"

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

// 1 / rms(x).
template <class T>
inline float rms_scale(const T* x, int64_t n, float eps) {
  return 1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps);
}

// out = x * scale * weight; `out` may be x.
template <class T, class W, class Out>
inline void scale_row(const T* x, float scale, const W* weight, Out* out, int64_t n) {
  const Vec factor = set1(scale);
  for_vectors(
      n, [&](int64_t i) { store(out + i, load(x + i) * factor * load(weight + i)); },
      [&](int64_t i, int64_t count) {
        store_first(out + i, load_first(x + i, count) * factor * load_first(weight + i, count), count);
      });
}

// out = x / rms(x) * weight; `out` may be x.
template <class T, class W, class Out>
inline void rms_norm_row(const T* x, const W* weight, Out* out, int64_t n, float eps) {
  scale_row(x, rms_scale(x, n, eps), weight, out, n);
}

struct RmsNorm {
  const void* x;  // [rows, n]
  const void* weight;
  void* out;
  int64_t type, weight_type;
  int64_t rows, n, threads;
  double eps;
};

template <class T, class W>
inline void rms_norm(const RmsNorm& a) {
  const T* x = static_cast<const T*>(a.x);
  const float eps = static_cast<float>(a.eps);
  parallel_runs(a.rows, kGrainElements / a.n, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      rms_norm_row(x + r * a.n, static_cast<const W*>(a.weight), static_cast<T*>(a.out) + r * a.n, a.n, eps);
  });
}

// sum = a + b, rounded to T; `sum` may be either.
template <class T>
inline void add_row(const T* a, const T* b, T* sum, int64_t n) {
  for_vectors(
      n, [&](int64_t i) { store(sum + i, load(a + i) + load(b + i)); },
      [&](int64_t i, int64_t count) {
        store_first(sum + i, load_first(a + i, count) + load_first(b + i, count), count);
      });
}

// residual becomes residual + x, and x the norm of that.
struct AddRmsNorm {
  void* x;  // [rows, n]
  void* residual;
  const void* weight;
  int64_t type, weight_type;
  int64_t rows, n, threads;
  double eps;
};

template <class T, class W>
inline void add_rms_norm(const AddRmsNorm& a) {
  const float eps = static_cast<float>(a.eps);
  parallel_runs(a.rows, kGrainElements / a.n, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      T *x = static_cast<T*>(a.x) + r * a.n, *sum = static_cast<T*>(a.residual) + r * a.n;
      add_row(x, sum, sum, a.n);
      rms_norm_row(sum, static_cast<const W*>(a.weight), x, a.n, eps);
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

// Where a token's cosines and sines are.
struct RopeTable {
  const int64_t* positions;
  const float* cos_sin;
  int64_t rotary_dim;
  const float* at(int64_t token) const { return cos_sin + positions[token] * rotary_dim; }
};

struct Rope {
  void* query;
  void* key;
  const int64_t* positions;
  const float* cos_sin;
  int64_t type, rotary_dim;
  int64_t tokens, heads, kv_heads, dim;
  int64_t q_token, q_head, k_token, k_head;
  int64_t threads;
};

// In place.
template <class T>
inline void rope(const Rope& a) {
  const RopeTable table{a.positions, a.cos_sin, a.rotary_dim};
  const auto rotate = [&](void* heads, int64_t t, int64_t count, int64_t token, int64_t stride) {
    for (int64_t h = 0; h < count; ++h) {
      T* head = static_cast<T*>(heads) + t * token + h * stride;
      rope_head(head, head, table.at(t), a.rotary_dim, a.dim);
    }
  };
  parallel_runs(a.tokens, kGrainElements / ((a.heads + a.kv_heads) * a.dim), a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      rotate(a.query, t, a.heads, a.q_token, a.q_head);
      rotate(a.key, t, a.kv_heads, a.k_token, a.k_head);
    }
  });
}

// Strides of the canonical cache views [num_blocks, num_kv_heads, block_size, head_dim]; the last dim is contiguous.
struct CacheStrides {
  int64_t type, block_size;
  int64_t k_block, k_head, k_slot;
  int64_t v_block, v_head, v_slot;

  int64_t key_at(int64_t slot, int64_t head) const {
    return slot / block_size * k_block + head * k_head + slot % block_size * k_slot;
  }
  int64_t value_at(int64_t slot, int64_t head) const {
    return slot / block_size * v_block + head * v_head + slot % block_size * v_slot;
  }
};

struct KvWrite {
  const void* key;
  const void* value;
  void* key_cache;
  void* value_cache;
  const int64_t* slots;
  int64_t type, tokens, kv_heads, dim;
  int64_t k_token, k_head, v_token, v_head;
  CacheStrides cache;
  int64_t threads;
};

template <class T, class KV>
inline void kv_write(const KvWrite& a) {
  const T *key = static_cast<const T*>(a.key), *value = static_cast<const T*>(a.value);
  KV *keys = static_cast<KV*>(a.key_cache), *values = static_cast<KV*>(a.value_cache);
  parallel_runs(a.tokens, kGrainElements / (a.kv_heads * a.dim), a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (a.slots[t] < 0) continue;
      for (int64_t h = 0; h < a.kv_heads; ++h) {
        convert(key + t * a.k_token + h * a.k_head, keys + a.cache.key_at(a.slots[t], h), a.dim);
        convert(value + t * a.v_token + h * a.v_head, values + a.cache.value_at(a.slots[t], h), a.dim);
      }
    }
  });
}

struct QkvRopeWrite {
  const void* qkv;  // [T, (Hq + 2 Hk) * D]
  const int64_t* positions;
  const float* cos_sin;
  const void* q_norm;  // [D], or null
  const void* k_norm;
  void* key_cache;
  void* value_cache;
  const int64_t* slots;
  void* query;  // [T, Hq, D] contiguous
  int64_t type, norm_type, qkv_token, rotary_dim;
  int64_t tokens, heads, kv_heads, dim;
  CacheStrides cache;
  int64_t threads;
  double eps;
};

constexpr int64_t kMaxHeadDim = 512;

namespace detail {

// A head's norm weights as floats, in scratch memory of the calling thread; null stays null.
inline const float* norm_as_float(const void* weight, int64_t type, int64_t dim, int slot) {
  if (!weight) return nullptr;
  float* copy = scratch<float>(slot, dim);
  with_dtype(type, [&](auto tag) { convert(static_cast<const typename decltype(tag)::type*>(weight), copy, dim); });
  return copy;
}

// Norm (if there is a weight) and rotate one head in float, rounding once when it is stored.
template <class T, class To>
inline void norm_rope_head(const T* from, const float* norm, const float* cos_sin, const QkvRopeWrite& a, To* to) {
  if (!norm) return rope_head(from, to, cos_sin, a.rotary_dim, a.dim);
  float head[kMaxHeadDim];
  rms_norm_row(from, norm, head, a.dim, static_cast<float>(a.eps));
  rope_head(head, to, cos_sin, a.rotary_dim, a.dim);
}

}  // namespace detail

template <class T, class KV>
inline void qkv_rope_write(const QkvRopeWrite& a) {
  const RopeTable table{a.positions, a.cos_sin, a.rotary_dim};
  const float* q_norm = detail::norm_as_float(a.q_norm, a.norm_type, a.dim, 2);
  const float* k_norm = detail::norm_as_float(a.k_norm, a.norm_type, a.dim, 3);
  KV *keys = static_cast<KV*>(a.key_cache), *values = static_cast<KV*>(a.value_cache);
  const int64_t width = (a.heads + 2 * a.kv_heads) * a.dim;
  parallel_runs(a.tokens, kGrainElements / width, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* row = static_cast<const T*>(a.qkv) + t * a.qkv_token;
      T* query = static_cast<T*>(a.query) + t * a.heads * a.dim;
      for (int64_t h = 0; h < a.heads; ++h)
        detail::norm_rope_head(row + h * a.dim, q_norm, table.at(t), a, query + h * a.dim);
      if (a.slots[t] < 0) continue;
      const T *key = row + a.heads * a.dim, *value = key + a.kv_heads * a.dim;
      for (int64_t h = 0; h < a.kv_heads; ++h) {
        detail::norm_rope_head(key + h * a.dim, k_norm, table.at(t), a, keys + a.cache.key_at(a.slots[t], h));
        convert(value + h * a.dim, values + a.cache.value_at(a.slots[t], h), a.dim);
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

// Call `body(Type<A>{})` with the function that `activation` stands for.
template <class F>
inline void with_activation(int64_t activation, F&& body) {
  switch (activation) {
    case kGelu:
      return body(Type<Gelu>{});
    case kGeluTanh:
      return body(Type<GeluTanh>{});
    default:
      return body(Type<Silu>{});
  }
}

struct Gated {
  const void* x;  // [rows, 2 n]
  void* out;      // [rows, n]
  int64_t activation, type;
  int64_t rows, n, threads;
};

template <class T>
inline void gated(const Gated& a) {
  const T* x = static_cast<const T*>(a.x);
  T* out = static_cast<T*>(a.out);
  with_activation(a.activation, [&](auto tag) {
    using A = typename decltype(tag)::type;
    parallel_runs(a.rows, kGrainElements / a.n, a.threads, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) gated_row<A>(x + r * 2 * a.n, out + r * a.n, a.n);
    });
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
