// Dense layers and attention whose products are of bfloat16 numbers, with the gradients of both (AVX512-BF16).
//
// compiled.cc includes this at its end. Inputs and outputs are float32, and so is every sum, the softmax, and a bias. A number
// is rounded to bfloat16, 8 bits of mantissa, where it enters a product. The processor multiplies pairs: two neighbours
// along the axis that the product sums over, in 32 bits. Shapes may be any: what is missing to whole pairs and vectors is
// filled up with zeros on the way.

#include <immintrin.h>

#include <new>

namespace {

typedef uint32_t Pair;           // the first of two bfloat16 numbers is the lower half

constexpr int64_t PANEL = 64;    // columns of a product whose sums are in registers at a time: 4 vectors
constexpr int64_t TASK = 48;     // rows that a thread takes at a time: a multiple of 6, so of 2
constexpr int64_t FEW = 256;     // rows: so few take less time than waking the threads a second time
constexpr int64_t QUERIES = 96;  // query rows at a time, with twice BLOCK's cache, since numbers are half as long

inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Memory, uninitialised, that goes at the end of its scope: no thread keeps any.
template <class T>
class Room {
 public:
  explicit Room(int64_t size) : at_(static_cast<T*>(operator new(size * sizeof(T), std::align_val_t(64)))) {}
  ~Room() { operator delete(at_, std::align_val_t(64)); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  operator T*() const { return at_; }

 private:
  T* at_;
};

// --- from float32 to pairs

inline __mmask16 first(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1; }

// The next 16 numbers of which `left` are there, and zeros.
inline __m512 some(const float* x, int64_t left) {
  return left >= 16 ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(first(left), x);
}

inline __m512i rounded(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

inline int64_t pairs_of_row(int64_t n) { return up(n, 32) / 2; }

// to[pairs_of_row(n)] = x[n] in pairs along the row.
inline void pair_along(const float* x, int64_t n, Pair* to) {
  for (int64_t i = 0; i < n; i += 32)
    _mm512_storeu_si512(to + i / 2, rounded(some(x + i, n - i), some(x + i + 16, n - i - 16)));
}

inline __m512i interleaved(__m512 low, __m512 high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, rounded(low, high));
}

// x[rows, columns], whose rows lie `row` apart -> pairs of two rows each: pair p of column c is at to[p * step + c]; where
// `panel` isn't 0, columns are in panels that lie so far apart. Whole vectors are written.
void pair_rows(const float* x, int64_t rows, int64_t columns, int64_t row, Pair* to, int64_t step, int64_t panel) {
  for (int64_t m = 0; m < rows; m += 2)
    for (int64_t c = 0; c < columns; c += 16) {
      const float* at = x + m * row + c;
      const __m512 high = m + 1 < rows ? some(at + row, columns - c) : _mm512_setzero_ps();
      Pair* place = to + m / 2 * step + (panel ? c / PANEL * panel + c % PANEL : c);
      _mm512_storeu_si512(place, interleaved(some(at, columns - c), high));
    }
}

// 16 x 16 pairs, transposed (Eklundh 1972): each step swaps the off-diagonal quarters of all squares of side 2 s.
inline void transpose(__m512i (&x)[16]) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#pragma GCC unroll 4
  for (int s = 1; s < 16; s *= 2) {
    const __mmask16 right = _mm512_test_epi32_mask(lanes, _mm512_set1_epi32(s));
    const __m512i above = _mm512_mask_add_epi32(lanes, right, lanes, _mm512_set1_epi32(16 - s));  // 16 on: from the other
    const __m512i below = _mm512_add_epi32(above, _mm512_set1_epi32(s));
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i)
      if (!(i & s)) {
        const __m512i upper = x[i], lower = x[i + s];
        x[i] = _mm512_permutex2var_epi32(upper, above, lower);
        x[i + s] = _mm512_permutex2var_epi32(upper, below, lower);
      }
  }
}

// x[rows <= PANEL, n], whose rows lie `row` apart -> a panel whose columns they are: pair p of row r is at to[p * PANEL + r].
// Rows are filled up to whole vectors with zeros.
void pair_across(const float* x, int64_t rows, int64_t n, int64_t row, Pair* to) {
  for (int64_t r = 0; r < rows; r += 16)
    for (int64_t c = 0; c < n; c += 32) {
      __m512i square[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const float* at = x + (r + i) * row + c;
        square[i] = r + i < rows ? rounded(some(at, n - c), some(at + 16, n - c - 16)) : _mm512_setzero_si512();
      }
      transpose(square);
      const int64_t pairs = std::min<int64_t>(16, (n - c + 1) / 2);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        if (i < pairs) _mm512_storeu_si512(to + (c / 2 + i) * PANEL + r, square[i]);
    }
}

// --- products

// The left side: pair p of row r is at[r * row + p * step].
struct Left {
  const Pair* at;
  int64_t row, step;
};

// c[R, up to V * 16] = start + a b for a panel b [pairs, PANEL]; `last` tells which columns of the last vector there are.
// Without a start the sums begin with zero; it is one row if its rows lie 0 apart.
template <int R, int V>
void tile(Left a, const Pair* b, int64_t pairs, const float* start, int64_t start_row, float* c, int64_t c_row,
          __mmask16 last) {
  __m512 sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      sum[r][v] = start ? _mm512_maskz_loadu_ps(v == V - 1 ? last : 0xffff, start + r * start_row + v * 16)
                        : _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; ++p) {
    __m512bh row[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) row[v] = (__m512bh)_mm512_loadu_si512(b + p * PANEL + v * 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(static_cast<int>(a.at[r * a.row + p * a.step]));
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], x, row[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      _mm512_mask_storeu_ps(c + r * c_row + v * 16, v == V - 1 ? last : 0xffff, sum[r][v]);
}

// c[rows, columns] = start + a b for panels b that lie `panel` apart.
void multiply(Left a, const Pair* b, int64_t panel, int64_t pairs, const float* start, int64_t start_row, float* c,
              int64_t c_row, int64_t rows, int64_t columns) {
  for (int64_t n = 0; n < columns; n += PANEL, b += panel) {
    const int64_t left = std::min(PANEL, columns - n), vectors = (left + 15) / 16;
    const __mmask16 last = first(left - (vectors - 1) * 16);
    for (int64_t m = 0; m < rows;) {
      const Left rest = {a.at + m * a.row, a.row, a.step};
      const float* from = start ? start + m * start_row + n : nullptr;
      float* to = c + m * c_row + n;
      const auto next = [&](auto r) {
        if (vectors == 4) tile<r, 4>(rest, b, pairs, from, start_row, to, c_row, last);
        else if (vectors == 3) tile<r, 3>(rest, b, pairs, from, start_row, to, c_row, last);
        else if (vectors == 2) tile<r, 2>(rest, b, pairs, from, start_row, to, c_row, last);
        else tile<r, 1>(rest, b, pairs, from, start_row, to, c_row, last);
        m += r;
      };
      if (rows - m >= 6) next(std::integral_constant<int, 6>());  // 24 of 32 registers hold sums
      else if (rows - m >= 4) next(std::integral_constant<int, 4>());
      else if (rows - m >= 2) next(std::integral_constant<int, 2>());
      else next(std::integral_constant<int, 1>());
    }
  }
}

// --- a head of attention

// All panels of k or v [tokens, dim], whose columns are the tokens, filled up with zeros.
void pair_tokens(const Head& head, const float* from, Pair* to) {
  for (int64_t n = 0; n < head.tokens; n += PANEL)
    pair_across(from + n * head.row, std::min(PANEL, head.tokens - n), head.dim, head.row, to + n * ((head.dim + 1) / 2));
}

}  // namespace

// x [M, K], weight [N, K], bias [N] -> x weight^T + bias, [M, N]
KERNEL(dense_bfloat16) {
  const float *x = floats(addresses)[0], *weight = floats(addresses)[1], *bias = floats(addresses)[2];
  float* y = floats(addresses)[3];
  const int64_t m = shapes[0][0], k = shapes[0][1], n = shapes[1][0], pairs = (k + 1) / 2, deep = pairs_of_row(k);
  if (m <= FEW) {
    const Room<Pair> rows(m * deep);
    for (int64_t i = 0; i < m; ++i) pair_along(x + i * k, k, rows + i * deep);
    pieces(n, 48, [&](int64_t begin, int64_t end) {
      const Room<Pair> panel(PANEL * pairs);
      pair_across(weight + begin * k, end - begin, k, k, panel);
      multiply({rows, deep, 1}, panel, 0, pairs, bias + begin, 0, y + begin, n, m, end - begin);
    });
    return 0;
  }
  const Room<Pair> packed(up(n, PANEL) * pairs);
  pieces(n, PANEL, [&](int64_t begin, int64_t end) {
    pair_across(weight + begin * k, end - begin, k, k, packed + begin * pairs);
  });
  pieces(m, TASK, [&](int64_t begin, int64_t end) {
    const Room<Pair> rows(TASK * deep);
    for (int64_t i = begin; i < end; ++i) pair_along(x + i * k, k, rows + (i - begin) * deep);
    multiply({rows, deep, 1}, packed, PANEL * pairs, pairs, bias, 0, y + begin * n, n, end - begin, n);
  });
  return 0;
}

// x [M, K], weight [N, K], dy [M, N] -> dx [M, K], dweight [N, K], dbias [N]
KERNEL(dense_bfloat16_grad) {
  const float *x = floats(addresses)[0], *weight = floats(addresses)[1], *dy = floats(addresses)[2];
  float *dx = floats(addresses)[3], *dweight = floats(addresses)[4], *dbias = floats(addresses)[5];
  const int64_t m = shapes[0][0], k = shapes[0][1], n = shapes[1][0], tasks = (m + TASK - 1) / TASK;
  const int64_t down = (m + 1) / 2, across = (n + 1) / 2, deep = pairs_of_row(n), wide = up(n, 16);
  const Room<Pair> weights(up(k, PANEL) * across);  // pairs of rows of the weight, for dx
  const Room<Pair> xs(up(k, PANEL) * down);         // pairs of rows of x and of dy, for dweight
  const Room<Pair> dys(down * wide);
  const Room<float> sums(tasks * wide);             // of dbias, by task
  pieces(n, 32, [&](int64_t begin, int64_t end) {
    pair_rows(weight + begin * k, end - begin, k, k, weights + begin / 2 * PANEL, PANEL, PANEL * across);
  });
  pieces(m, TASK, [&](int64_t begin, int64_t end) {
    const int64_t rows = end - begin;
    const float* grad = dy + begin * n;
    const Room<Pair> along(TASK * deep);
    for (int64_t i = 0; i < rows; ++i) pair_along(grad + i * n, n, along + i * deep);
    multiply({along, deep, 1}, weights, PANEL * across, across, nullptr, 0, dx + begin * k, k, rows, k);
    pair_rows(x + begin * k, rows, k, k, xs + begin / 2 * PANEL, PANEL, PANEL * down);
    float* sum = sums + begin / TASK * wide;
    std::fill(sum, sum + wide, 0.0f);
    for (int64_t i = 0; i < rows; i += 2)
      for (int64_t c = 0; c < n; c += 16) {
        const __m512 low = some(grad + i * n + c, n - c);
        const __m512 high = i + 1 < rows ? some(grad + (i + 1) * n + c, n - c) : _mm512_setzero_ps();
        _mm512_storeu_si512(dys + (begin + i) / 2 * wide + c, interleaved(low, high));
        _mm512_storeu_ps(sum + c, _mm512_add_ps(_mm512_loadu_ps(sum + c), _mm512_add_ps(low, high)));
      }
  });
  std::fill(dbias, dbias + n, 0.0f);
  for (int64_t task = 0; task < tasks; ++task)
    for (int64_t c = 0; c < n; ++c) dbias[c] += sums[task * wide + c];
  constexpr int64_t HIGH = 48, BROAD = 3 * PANEL, DEEP = 128;  // rows and columns of dweight for a task, pairs at a time
  const int64_t columns = (k + BROAD - 1) / BROAD;
  parallel(columns * ((n + HIGH - 1) / HIGH), [&](int64_t i) {
    const int64_t top = i / columns * HIGH, left = i % columns * BROAD;
    float* to = dweight + top * k + left;
    for (int64_t p = 0; p < down; p += DEEP)
      multiply({dys + p * wide + top, 1, wide}, xs + left * down + p * PANEL, PANEL * down, std::min(DEEP, down - p),
               p ? to : nullptr, k, to, k, std::min(HIGH, n - top), std::min(BROAD, k - left));
  });
  return 0;
}

// As `attention`: qkv [B, N, 3 * H * d], heads [H] -> [B, N, H * d]
KERNEL(attention_bfloat16) {
  const int64_t heads = shapes[1][0], width = shapes[0][2] / 3;
  float* out = floats(addresses)[2];
  each_head(floats(addresses)[0], shapes[0], heads, [&](const Head& head, int64_t offset) {
    const int64_t dim = head.dim, wide = head.wide, deep = head.deep;
    const int64_t across = (dim + 1) / 2, q_row = pairs_of_row(dim), down = (head.tokens + 1) / 2, row = pairs_of_row(wide);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    const Room<Pair> k(up(head.tokens, PANEL) * across), v(up(dim, PANEL) * down), q(QUERIES * q_row), shared(QUERIES * row);
    const Room<float> weights(QUERIES * wide), mixed(QUERIES * deep);
    float shares[QUERIES];
    pair_tokens(head, head.k, k);
    pair_rows(head.v, head.tokens, dim, head.row, v, PANEL, PANEL * down);
    for (int64_t first_row = 0; first_row < head.tokens; first_row += QUERIES) {
      const int64_t rows = std::min(QUERIES, head.tokens - first_row);
      for (int64_t r = 0; r < rows; ++r) {
        const float* from = head.q + (first_row + r) * head.row;
        for (int64_t c = 0; c < dim; ++c) mixed[c] = from[c] * scale;
        pair_along(mixed, dim, q + r * q_row);
      }
      multiply({q, q_row, 1}, k, PANEL * across, across, nullptr, 0, weights, wide, rows, wide);
      softmax(head, rows, weights, shares);
      for (int64_t r = 0; r < rows; ++r) pair_along(weights + r * wide, wide, shared + r * row);
      multiply({shared, row, 1}, v, PANEL * down, down, nullptr, 0, mixed, deep, rows, deep);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < dim; ++c) out[offset + (first_row + r) * width + c] = mixed[r * deep + c] * shares[r];
    }
  });
  return 0;
}

// As `attention_grad`: qkv [B, N, 3 * H * d], heads [H], out [B, N, H * d], dout [B, N, H * d] -> dqkv [B, N, 3 * H * d]
KERNEL(attention_bfloat16_grad) {
  const int64_t heads = shapes[1][0], width = shapes[0][2] / 3;
  const float *qkv = floats(addresses)[0], *out = floats(addresses)[2], *dout = floats(addresses)[3];
  float* dqkv = floats(addresses)[4];
  each_head(qkv, shapes[0], heads, [&](const Head& head, int64_t offset) {
    const int64_t dim = head.dim, wide = head.wide, deep = head.deep, tokens = head.tokens;
    const int64_t across = (dim + 1) / 2, q_row = pairs_of_row(dim), down = (tokens + 1) / 2, row = pairs_of_row(wide);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    const Room<Pair> k_across(up(tokens, PANEL) * across), v_across(up(tokens, PANEL) * across), k(up(dim, PANEL) * down);
    const Room<Pair> q_along(QUERIES * q_row), grad_along(QUERIES * q_row), dscores_along(QUERIES * row);
    const Room<Pair> q_down(QUERIES / 2 * up(dim, PANEL)), grad_down(QUERIES / 2 * up(dim, PANEL)), left(QUERIES / 2 * wide);
    const Room<float> weights(QUERIES * wide), dscores(QUERIES * wide), q(QUERIES * deep), dq(QUERIES * deep);
    const Room<float> dk(tokens * deep), dv(tokens * deep);
    float shares[QUERIES];
    std::fill(dk + 0, dk + tokens * deep, 0.0f);
    std::fill(dv + 0, dv + tokens * deep, 0.0f);
    pair_tokens(head, head.k, k_across);
    pair_tokens(head, head.v, v_across);
    pair_rows(head.k, tokens, dim, head.row, k, PANEL, PANEL * down);
    float* to = dqkv + (head.q - qkv);  // for dq; dk and dv lie width and 2 * width further on
    for (int64_t first_row = 0; first_row < tokens; first_row += QUERIES) {
      const int64_t rows = std::min(QUERIES, tokens - first_row), half = (rows + 1) / 2;
      const float *grad = dout + offset + first_row * width, *mixed = out + offset + first_row * width;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < dim; ++c) q[r * deep + c] = head.q[(first_row + r) * head.row + c] * scale;
        pair_along(q + r * deep, dim, q_along + r * q_row);
        pair_along(grad + r * width, dim, grad_along + r * q_row);
      }
      pair_rows(q, rows, dim, deep, q_down, PANEL, PANEL * half);
      pair_rows(grad, rows, dim, width, grad_down, PANEL, PANEL * half);
      multiply({q_along, q_row, 1}, k_across, PANEL * across, across, nullptr, 0, weights, wide, rows, wide);
      softmax(head, rows, weights, shares);
      multiply({grad_along, q_row, 1}, v_across, PANEL * across, across, nullptr, 0, dscores, wide, rows, wide);
      for (int64_t r = 0; r < rows; ++r) {
        float mean = 0;  // of the gradients by the row's weights, as in `attention_grad`
        for (int64_t c = 0; c < dim; ++c) mean += mixed[r * width + c] * grad[r * width + c];
        float *w = weights + r * wide, *d = dscores + r * wide;
        const float share = shares[r];
        for (int64_t n = 0; n < wide; ++n) {
          w[n] *= share;
          d[n] = w[n] * (d[n] - mean);
        }
        pair_along(d, wide, dscores_along + r * row);
      }
      pair_rows(weights, rows, wide, wide, left, wide, 0);
      multiply({left, 1, wide}, grad_down, PANEL * half, half, dv, deep, dv, deep, tokens, deep);
      pair_rows(dscores, rows, wide, wide, left, wide, 0);
      multiply({left, 1, wide}, q_down, PANEL * half, half, dk, deep, dk, deep, tokens, deep);
      multiply({dscores_along, row, 1}, k, PANEL * down, down, nullptr, 0, dq, deep, rows, deep);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < dim; ++c) to[(first_row + r) * head.row + c] = dq[r * deep + c] * scale;
    }
    for (int64_t n = 0; n < tokens; ++n) {
      std::copy_n(dk + n * deep, dim, to + width + n * head.row);
      std::copy_n(dv + n * deep, dim, to + 2 * width + n * head.row);
    }
  });
  return 0;
}
