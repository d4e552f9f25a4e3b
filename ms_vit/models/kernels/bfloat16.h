// Dense layers, attention, the MLP and a whole block whose products are of bfloat16 numbers, and the gradients of the first
// three (AVX512-BF16).
//
// compiled.cc includes this at its end. A number is rounded to bfloat16, 8 bits of mantissa, where it enters a product; what
// enters nothing else may be stored so. Sums, softmax, moments, bias, residuals and gradients are float32. The processor
// multiplies pairs: two neighbours along the axis that the product sums over, in 32 bits. Shapes may be any: what is missing to
// whole pairs and vectors is filled up with zeros on the way.

#include <immintrin.h>

#include <initializer_list>
#include <map>
#include <new>

namespace {

typedef uint32_t Pair;           // the first of two bfloat16 numbers is the lower half
struct Half { uint16_t bits; };  // one bfloat16 number in memory

constexpr int64_t PANEL = 64;    // columns of a product whose sums are in registers at a time: 4 vectors
constexpr int64_t QUERIES = 96;  // query rows at a time, with twice BLOCK's cache, since numbers are half as long

inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// M of a tensor [..., D] that is read as [M, D].
inline int64_t rows_of(int dims, const int64_t* shape) { return size_of(shape, dims - 1); }

// Rows that a thread takes at a time, a multiple of 6, so of 2: few where there are few, so that all threads have some.
inline int64_t task_rows(int64_t m) { return m <= 512 ? 24 : 48; }

// Blocks of memory that a thread has done with, for the next that asks for as much: new ones would come from the system
// each time, page by page. A thread keeps 64 MB at most, which go when it ends.
class Spare {
 public:
  // `size` becomes the block's, which may be twice as large.
  static void* take(size_t& size) {
    auto& blocks = here().blocks_;
    const auto found = blocks.lower_bound(size);
    if (found == blocks.end() || found->first > 2 * size) return operator new(size, std::align_val_t(64));
    void* at = found->second;
    size = found->first;
    here().kept_ -= size;
    blocks.erase(found);
    return at;
  }
  static void give(void* at, size_t size) {
    if (here().kept_ + size > (64 << 20)) return operator delete(at, std::align_val_t(64));
    here().kept_ += size;
    here().blocks_.emplace(size, at);
  }
  ~Spare() {
    for (const auto& [size, at] : blocks_) operator delete(at, std::align_val_t(64));
  }

 private:
  static Spare& here() {
    static thread_local Spare spare;
    return spare;
  }
  std::multimap<size_t, void*> blocks_;
  size_t kept_ = 0;
};

// Memory, uninitialised, until the end of its scope.
template <class T>
class Room {
 public:
  explicit Room(int64_t count) : size_(up(count * sizeof(T) + 1, 4096)), at_(static_cast<T*>(Spare::take(size_))) {}
  ~Room() { Spare::give(at_, size_); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  operator T*() const { return at_; }
  T* get() const { return at_; }

 private:
  size_t size_;
  T* const at_;
};

// Whether MindSpore names the type of an input or output so. Where a graph has a loop, all that is bfloat16 elsewhere comes,
// and is wanted, as float32.
inline bool half(const char* type) { return std::strcmp(type, "bfloat16") == 0; }

// Calls body(address) as float32 or bfloat16.
template <class Body>
void typed(const char* type, void* address, const Body& body) {
  if (half(type)) body(static_cast<Half*>(address));
  else body(static_cast<float*>(address));
}

// --- loads, stores and pairs. `left` tells how many numbers there are; zeros follow.

inline __mmask16 first(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1; }
inline __m256i sixteen(const Half* x, int64_t left) { return _mm256_maskz_loadu_epi16(first(left), x); }
inline __m512i together(__m256i low, __m256i high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }

inline __m512 some(const float* x, int64_t left) { return _mm512_maskz_loadu_ps(first(left), x); }
inline __m512 some(const Half* x, int64_t left) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(sixteen(x, left)), 16));
}

inline void store(float* to, __mmask16 which, __m512 x) { _mm512_mask_storeu_ps(to, which, x); }
inline void store(Half* to, __mmask16 which, __m512 x) {
  _mm256_mask_storeu_epi16(to, which, (__m256i)_mm512_cvtneps_pbh(x));
}

// 16 numbers from each of two places, rounded.
inline __m512i both(const float* low, int64_t left, const float* high, int64_t high_left) {
  return (__m512i)_mm512_cvtne2ps_pbh(some(high, high_left), some(low, left));
}
inline __m512i both(const Half* low, int64_t left, const Half* high, int64_t high_left) {
  return together(sixteen(low, left), sixteen(high, high_left));
}

// The next 32 numbers, in pairs.
template <class T>
__m512i next_pairs(const T* x, int64_t left) {
  return both(x, left, x + 16, left - 16);
}

inline __m512i interleaved(__m512i halves) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}

// The left side of a product: pair p of row r is at[r * row + p * step].
struct Left {
  const Pair* at;
  int64_t row, step;
};

inline int64_t pairs_of_row(int64_t n) { return up(n, 32) / 2; }

// x[rows, n], whose rows lie `row` apart, in pairs along its rows: as it is, or in room[rows * pairs_of_row(n)].
template <class T>
Left pair_along(const T* x, int64_t row, int64_t rows, int64_t n, Pair* room) {
  if (std::is_same<T, Half>() && row % 2 == 0 && n % 2 == 0 && reinterpret_cast<uintptr_t>(x) % sizeof(Pair) == 0)
    return {reinterpret_cast<const Pair*>(x), row / 2, 1};
  const int64_t pairs = pairs_of_row(n);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < n; i += 32) _mm512_storeu_si512(room + r * pairs + i / 2, next_pairs(x + r * row + i, n - i));
  return {room, pairs, 1};
}

// x[rows, columns], whose rows lie `row` apart -> pairs of two rows each: pair p of column c is at to[p * step + c]; where
// `panel` isn't 0, columns are in panels that lie so far apart. Whole vectors are written.
template <class T>
void pair_rows(const T* x, int64_t rows, int64_t columns, int64_t row, Pair* to, int64_t step, int64_t panel) {
  for (int64_t m = 0; m < rows; m += 2)
    for (int64_t c = 0; c < columns; c += 16) {
      const T* at = x + m * row + c;
      Pair* place = to + m / 2 * step + (panel ? c / PANEL * panel + c % PANEL : c);
      _mm512_storeu_si512(place, interleaved(both(at, columns - c, at + row, m + 1 < rows ? columns - c : 0)));
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

// x[rows, n], whose rows lie `row` apart -> panels whose columns they are, [up(rows, PANEL) / PANEL, (n + 1) / 2, PANEL]. Rows
// are filled up to whole vectors with zeros.
template <class T>
void pair_across(const T* x, int64_t rows, int64_t n, int64_t row, Pair* to) {
  for (int64_t r = 0; r < rows; r += 16)
    for (int64_t c = 0; c < n; c += 32) {
      __m512i square[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        square[i] = r + i < rows ? next_pairs(x + (r + i) * row + c, n - c) : _mm512_setzero_si512();
      transpose(square);
      const int64_t pairs = std::min<int64_t>(16, (n - c + 1) / 2);
      Pair* place = to + r / PANEL * PANEL * ((n + 1) / 2) + c / 2 * PANEL + r % PANEL;
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        if (i < pairs) _mm512_storeu_si512(place + i * PANEL, square[i]);
    }
}

// --- products

// c[R, up to V * 16] = start + a b for a panel b [pairs, PANEL]; `last` tells which columns of the last vector there are.
// Without a start the sums begin with zero; it is one row if its rows lie 0 apart.
template <int R, int V, class T>
void tile(Left a, const Pair* b, int64_t pairs, const float* start, int64_t start_row, T* c, int64_t c_row, __mmask16 last) {
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
    for (int v = 0; v < V; ++v) store(c + r * c_row + v * 16, v == V - 1 ? last : 0xffff, sum[r][v]);
}

// c[rows, columns] = start + a b for panels b that lie `panel` apart. The panel may be longer than a core's first cache: 6 rows
// at a time, the second one brings it fast enough.
template <class T>
void multiply(Left a, const Pair* b, int64_t panel, int64_t pairs, const float* start, int64_t start_row, T* c,
              int64_t c_row, int64_t rows, int64_t columns) {
  for (int64_t n = 0; n < columns; n += PANEL, b += panel) {
    const int64_t left = std::min(PANEL, columns - n), vectors = (left + 15) / 16;
    const __mmask16 last = first(left - (vectors - 1) * 16);
    for (int64_t m = 0; m < rows;) {
      const Left rest = {a.at + m * a.row, a.row, a.step};
      const float* from = start ? start + m * start_row + n : nullptr;
      T* to = c + m * c_row + n;
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

// The weight [N, K] of a dense layer as the right side of x weight^T: in panels whose columns are its rows. It comes so
// packed (int32), or as float32 and is packed here.
class Across {
 public:
  Across(const char* type, const void* weight, int64_t n, int64_t k)
      : pairs((k + 1) / 2), room_(packed(type) ? 0 : size(n, k)), at_(room_) {
    if (packed(type)) at_ = static_cast<const Pair*>(weight);
    else pack(static_cast<const float*>(weight), n, k, room_);
  }
  static int64_t size(int64_t n, int64_t k) { return up(n, PANEL) * ((k + 1) / 2); }
  static void pack(const float* weight, int64_t n, int64_t k, Pair* to) {
    pieces(n, PANEL, [&](int64_t begin, int64_t end) {
      pair_across(weight + begin * k, end - begin, k, k, to + begin * ((k + 1) / 2));
    });
  }
  operator const Pair*() const { return at_; }
  const int64_t pairs;

 private:
  static bool packed(const char* type) { return std::strcmp(type, "int32") == 0; }
  const Room<Pair> room_;
  const Pair* at_;
};

// weight [N, K] as the right side of dy weight: in panels whose columns are its columns.
class Down {
 public:
  Down(const float* weight, int64_t n, int64_t k) : pairs((n + 1) / 2), room_(up(k, PANEL) * pairs) {
    pieces(n, 32, [&](int64_t begin, int64_t end) {
      pair_rows(weight + begin * k, end - begin, k, k, room_ + begin / 2 * PANEL, PANEL, PANEL * pairs);
    });
  }
  operator const Pair*() const { return room_; }
  const int64_t pairs;

 private:
  const Room<Pair> room_;
};

// y[rows, N] = x[rows, K] weight^T + bias; room[rows * pairs_of_row(K)]
template <class X, class Y>
void dense(const X* x, int64_t rows, int64_t k, const Across& weight, const float* bias, Y* y, int64_t n, Pair* room) {
  multiply(pair_along(x, k, rows, k, room), weight, PANEL * weight.pairs, weight.pairs, bias, 0, y, n, rows, n);
}

// dx[rows, K] = dy[rows, N] weight; room[rows * pairs_of_row(N)]
void dense_grad(const float* dy, int64_t rows, int64_t n, const Down& weight, float* dx, int64_t k, Pair* room) {
  multiply(pair_along(dy, n, rows, n, room), weight, PANEL * weight.pairs, weight.pairs, nullptr, 0, dx, k, rows, k);
}

// The gradients of a dense layer's weight [N, K] and bias [N], which in_turns() makes. Every task of rows tells what it has of
// x [M, K] and of dy [M, N], which are kept as pairs of rows for one turn; then the product dy^T x goes on by these, in tasks
// of its own.
class WeightGradient {
 public:
  WeightGradient(int64_t m, int64_t k, int64_t n, float* dweight, float* dbias)
      : dweight_(dweight), dbias_(dbias), k_(k), n_(n), task_(task_rows(m)), tasks_((m + task_ - 1) / task_),
        turn_(turn_rows()), down_((std::min(m, turn_) + 1) / 2), wide_(up(n, 16)), columns_((k + BROAD - 1) / BROAD),
        xs_(up(k, PANEL) * down_), dys_(up(n, HIGH) * down_), sums_(tasks_ * wide_) {}

  // Rows of a turn, a multiple of all task_rows: as many as leave what is kept in the caches, and all threads something to do.
  // Every sum begins where the last turn's ended, so that its order doesn't depend on them.
  static int64_t turn_rows() { return 2016 * (pool == nullptr ? 1 : pool->threads()); }

  template <class X>
  void add(int64_t begin, int64_t rows, const X* x, const float* dy) {
    const int64_t pair = begin % turn_ / 2;
    pair_rows(x, rows, k_, k_, xs_ + pair * PANEL, PANEL, PANEL * down_);
    float* sum = sums_ + begin / task_ * wide_;
    std::fill(sum, sum + wide_, 0.0f);
    for (int64_t i = 0; i < rows; i += 2)
      for (int64_t c = 0; c < n_; c += 16) {
        const float* at = dy + i * n_ + c;
        const __m512 low = some(at, n_ - c), high = some(at + n_, i + 1 < rows ? n_ - c : 0);
        Pair* place = dys_ + c / HIGH * HIGH * down_ + (pair + i / 2) * HIGH + c % HIGH;
        _mm512_storeu_si512(place, interleaved((__m512i)_mm512_cvtne2ps_pbh(high, low)));
        _mm512_storeu_ps(sum + c, _mm512_add_ps(_mm512_loadu_ps(sum + c), _mm512_add_ps(low, high)));
      }
  }

  int64_t tasks() const { return columns_ * ((n_ + HIGH - 1) / HIGH); }

  // The task's part of dweight, after the turn of the rows from `begin` to `end`.
  void weight(int64_t task, int64_t begin, int64_t end) const {
    const int64_t top = task / columns_ * HIGH, left = task % columns_ * BROAD;
    float* to = dweight_ + top * k_ + left;
    multiply({dys_ + top * down_, 1, HIGH}, xs_ + left * down_, PANEL * down_, (end - begin + 1) / 2, begin ? to : nullptr, k_,
             to, k_, std::min(HIGH, n_ - top), std::min(BROAD, k_ - left));
  }

  void bias() const {
    std::fill(dbias_, dbias_ + n_, 0.0f);
    for (int64_t task = 0; task < tasks_; ++task)
      for (int64_t c = 0; c < n_; ++c) dbias_[c] += sums_[task * wide_ + c];
  }

 private:
  static constexpr int64_t HIGH = 48, BROAD = 3 * PANEL;  // rows and columns of a task
  float *const dweight_, *const dbias_;
  const int64_t k_, n_, task_, tasks_, turn_, down_, wide_, columns_;
  const Room<Pair> xs_, dys_;
  const Room<float> sums_;
};

// Makes gradients by `m` rows, turn by turn: add(begin, end) adds to them what the rows of a task have.
template <class Add>
void in_turns(int64_t m, const Add& add, std::initializer_list<const WeightGradient*> gradients) {
  const int64_t turn = WeightGradient::turn_rows();
  int64_t tasks = 0;
  for (const auto* gradient : gradients) tasks += gradient->tasks();
  for (int64_t first = 0; first < m; first += turn) {
    const int64_t beyond = std::min(m, first + turn);
    pieces(beyond - first, task_rows(m), [&](int64_t begin, int64_t end) { add(first + begin, first + end); });
    parallel(tasks, [&](int64_t task) {
      for (const auto* gradient : gradients) {
        if (task < gradient->tasks()) return gradient->weight(task, first, beyond);
        task -= gradient->tasks();
      }
    });
  }
  for (const auto* gradient : gradients) gradient->bias();
}

// --- a head of attention

// Numbers as they are, rounded or widened.
template <class From, class To>
void copy(const From* from, int64_t size, To* to) {
  for (int64_t i = 0; i < size; i += 16) store(to + i, first(size - i), some(from + i, size - i));
}

// An input in bfloat16: as it is, or rounded here.
class Rounded {
 public:
  Rounded(const char* type, const void* input, int64_t size)
      : room_(half(type) ? 0 : size), at_(half(type) ? static_cast<const Half*>(input) : room_.get()) {
    if (half(type)) return;
    const float* from = static_cast<const float*>(input);
    pieces(size, 16384, [&](int64_t begin, int64_t end) { copy<float, Half>(from + begin, end - begin, room_ + begin); });
  }
  operator const Half*() const { return at_; }

 private:
  const Room<Half> room_;
  const Half* const at_;
};

// qkv [B, N, 3 * H * d] in bfloat16: one head of one image, as its Left and panels are made of it.
struct HalfHead {
  int64_t tokens, dim, row;
  const Half *q, *k, *v;
  int64_t place;  // as Head's

  int64_t across() const { return (dim + 1) / 2; }
  int64_t down() const { return (tokens + 1) / 2; }
  int64_t wide() const { return padded(tokens); }
};

template <class Body>
void each_half_head(const Half* qkv, int64_t batch, int64_t tokens, int64_t width, int64_t heads, const Body& body) {
  parallel(batch * heads, [&](int64_t i) {
    const int64_t image = i / heads, offset = i % heads * (width / heads);
    const Half* at = qkv + image * tokens * 3 * width + offset;
    body(HalfHead{tokens, width / heads, 3 * width, at, at + width, at + 2 * width, i * tokens * tokens},
         image * tokens * width + offset);
  });
}

// weights[rows, wide] = softmax's numerators for a block of query rows; shares[rows] make each row sum to 1.
void half_attention_weights(const HalfHead& head, Left q, int64_t rows, const Pair* k_across, float* weights, float* shares) {
  const int64_t wide = head.wide();
  const float scale = 1.0f / std::sqrt(static_cast<float>(head.dim));
  multiply(q, k_across, PANEL * head.across(), head.across(), nullptr, 0, weights, wide, rows, wide);
  for (int64_t i = 0; i < rows * wide; ++i) weights[i] *= scale;
  softmax({head.tokens, head.dim, head.row, wide, 0, nullptr, nullptr, nullptr, 0}, rows, weights, shares);
}

// dropout(softmax(q k^T / sqrt(d))) v for qkv [B, N, 3 * H * d] -> out [B, N, H * d]
template <class T>
void half_attention(const Half* qkv, int64_t batch, int64_t tokens, int64_t width, int64_t heads, const Kept* kept, T* out) {
  each_half_head(qkv, batch, tokens, width, heads, [&](const HalfHead& head, int64_t offset) {
    const int64_t dim = head.dim, wide = head.wide(), down = head.down(), row = pairs_of_row(wide);
    const Room<Pair> k(up(tokens, PANEL) * head.across()), v(up(dim, PANEL) * down);
    const Room<Pair> q_room(QUERIES * pairs_of_row(dim)), shared(QUERIES * row);
    const Room<float> weights(QUERIES * wide), mixed(QUERIES * padded(dim));
    float shares[QUERIES];
    pair_across(head.k, tokens, dim, head.row, k);
    pair_rows(head.v, tokens, dim, head.row, v, PANEL, PANEL * down);
    for (int64_t begin = 0; begin < tokens; begin += QUERIES) {
      const int64_t rows = std::min(QUERIES, tokens - begin);
      half_attention_weights(head, pair_along(head.q + begin * head.row, head.row, rows, dim, q_room), rows, k, weights, shares);
      if (kept) drop(*kept, head.place + begin * tokens, rows, tokens, weights, wide);
      multiply(pair_along<float>(weights, wide, rows, wide, shared), v, PANEL * down, down, nullptr, 0, mixed.get(),
               padded(dim), rows, dim);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < dim; c += 16)
          store(out + offset + (begin + r) * width + c, first(dim - c),
                _mm512_mul_ps(_mm512_set1_ps(shares[r]), _mm512_loadu_ps(mixed + r * padded(dim) + c)));
    }
  });
}

// --- between the products

// y[rows, D] = x normalised along each row, times weight, plus bias
template <class T>
void normalize(const float* x, int64_t rows, int64_t dim, const float* weight, const float* bias, float epsilon, T* y) {
  for (int64_t r = 0; r < rows; ++r, x += dim, y += dim) {
    const auto [mean, rstd] = moments(x, dim, epsilon);
    const __m512 middle = _mm512_set1_ps(mean), scale = _mm512_set1_ps(rstd);
    for (int64_t c = 0; c < dim; c += 16) {
      const int64_t left = dim - c;
      const __m512 normed = _mm512_mul_ps(_mm512_sub_ps(some(x + c, left), middle), scale);
      store(y + c, first(left), _mm512_fmadd_ps(normed, some(weight + c, left), some(bias + c, left)));
    }
  }
}

// The 3x3 windows around pixels begin to end, counted through all images, of x [B, H, W, C]: to[end - begin, 9 * C]
inline void windows_of(const float* x, const int64_t* shape, int64_t begin, int64_t end, Half* to) {
  const int64_t height = shape[1], width = shape[2], channels = shape[3];
  for (int64_t at = begin; at < end; ++at) {
    const int64_t w = at % width, h = at / width % height, left = std::max<int64_t>(w - 1, 0);
    const int64_t beyond = std::min(w + 2, width);
    for (int64_t i = h - 1; i < h + 2; ++i, to += 3 * channels) {
      if (i < 0 || i >= height || w == 0 || w + 1 == width) std::fill_n(to, 3 * channels, Half{0});
      if (0 <= i && i < height)
        copy<float, Half>(x + (at + (i - h) * width + left - w) * channels, (beyond - left) * channels,
                          to + (left - w + 1) * channels);
    }
  }
}

// y[rows, D] = dropout(GELU(x[rows, D] w1^T + b1)) w2^T + b2, of which the first row is number `begin`; `before`[rows, H] gets
// the GELU's input, where it isn't null.
template <class Gelu, class X>
void mlp(const X* x, int64_t begin, int64_t rows, int64_t dim, const Across& w1, const float* b1, int64_t hidden,
         const Across& w2, const float* b2, const Kept* kept, Half* before, float* y) {
  const Room<float> middle(rows * hidden);
  const Room<Half> rounded(rows * hidden);
  const Room<Pair> pairs(rows * pairs_of_row(std::max(dim, hidden)));
  dense(x, rows, dim, w1, b1, middle.get(), hidden, pairs);
  if (before) copy<float>(middle, rows * hidden, before);
  for (int64_t i = 0; i < rows * hidden; ++i) middle[i] = Gelu::value(middle[i]);
  if (kept && !kept->all()) kept->apply(middle, rows * hidden, begin * hidden, middle);
  copy<float, Half>(middle, rows * hidden, rounded);
  dense<Half>(rounded, rows, hidden, w2, b2, y, dim, pairs);
}

// x [..., D], w1 [H, D], b1 [H], w2 [D, H], b2 [D], what Kept reads (4) -> y [..., D], before [..., H] (bfloat16)
template <class Gelu>
int mlp_kernel(void** addresses, const int* dims, int64_t** shapes, const char** types) {
  const int64_t m = rows_of(dims[0], shapes[0]), dim = shapes[4][0], hidden = shapes[2][0], task = task_rows(m);
  const float *b1 = floats(addresses)[2], *b2 = floats(addresses)[4];
  float* y = floats(addresses)[9];
  Half* before = static_cast<Half*>(addresses[10]);  // whatever its type is called: no other operator reads it
  const Across w1(types[1], addresses[1], hidden, dim), w2(types[3], addresses[3], dim, hidden);
  const Kept kept(addresses + 5, m * hidden);
  typed(types[0], addresses[0], [&](const auto* x) {
    pieces(m, task, [&](int64_t begin, int64_t end) {
      mlp<Gelu>(x + begin * dim, begin, end - begin, dim, w1, b1, hidden, w2, b2, &kept, before + begin * hidden,
                y + begin * dim);
    });
  });
  return 0;
}

// x [..., D], w1 [H, D], w2 [D, H], before [..., H] (bfloat16), what Kept reads (4), dy [..., D]
// -> dx [..., D], dw1 [H, D], db1 [H], dw2 [D, H], db2 [D]
template <class Gelu>
int mlp_grad_kernel(void** addresses, const int* dims, int64_t** shapes, const char** types) {
  const int64_t m = rows_of(dims[0], shapes[0]), dim = shapes[1][1], hidden = shapes[1][0];
  const Half* before = static_cast<const Half*>(addresses[3]);
  const Kept kept(addresses + 4, m * hidden);
  const float* dy = floats(addresses)[8];
  float* dx = floats(addresses)[9];
  const Down w1(floats(addresses)[1], hidden, dim), w2(floats(addresses)[2], dim, hidden);
  WeightGradient first_layer(m, dim, hidden, floats(addresses)[10], floats(addresses)[11]);
  WeightGradient second_layer(m, hidden, dim, floats(addresses)[12], floats(addresses)[13]);
  typed(types[0], addresses[0], [&](const auto* x) {
    const auto add = [&](int64_t begin, int64_t end) {
      const int64_t rows = end - begin, size = rows * hidden;
      const Room<float> middle(size), gradient(size), slope(size);
      const Room<Pair> pairs(rows * pairs_of_row(std::max(dim, hidden)));
      dense_grad(dy + begin * dim, rows, dim, w2, gradient, hidden, pairs);
      copy<Half, float>(before + begin * hidden, size, middle);
      for (int64_t i = 0; i < size; ++i) slope[i] = Gelu::slope(middle[i]);
      for (int64_t i = 0; i < size; ++i) middle[i] = Gelu::value(middle[i]);
      for (int64_t i = 0; i < size; ++i) gradient[i] *= slope[i];
      if (!kept.all()) {
        kept.apply(middle, size, begin * hidden, middle);
        kept.apply(gradient, size, begin * hidden, gradient);
      }
      dense_grad(gradient, rows, hidden, w1, dx + begin * dim, dim, pairs);
      first_layer.add<std::remove_const_t<std::remove_pointer_t<decltype(x)>>>(begin, rows, x + begin * dim, gradient);
      second_layer.add<float>(begin, rows, middle, dy + begin * dim);
    };
    in_turns(m, add, {&first_layer, &second_layer});
  });
  return 0;
}

// x [B, N, D], (number of heads, epsilon) [2], and weight and bias of norm1, qkv, proj, norm2, fc1, fc2 -> the block of x
template <class Gelu>
int block_kernel(void** addresses, int64_t** shapes, const char** types) {
  const int64_t batch = shapes[0][0], tokens = shapes[0][1], dim = shapes[0][2], m = batch * tokens, task = task_rows(m);
  const int64_t heads = static_cast<int64_t>(floats(addresses)[1][0]), width = shapes[5][0] / 3, hidden = shapes[11][0];
  const float epsilon = floats(addresses)[1][1];
  const float* x = floats(addresses)[0];
  float* y = floats(addresses)[14];
  const auto weight = [&](int i, int64_t n, int64_t k) { return Across(types[i], addresses[i], n, k); };
  const auto vector = [&](int i) { return floats(addresses)[i]; };
  const Across of_qkv = weight(4, 3 * width, dim), of_proj = weight(6, dim, width);
  const Across of_fc1 = weight(10, hidden, dim), of_fc2 = weight(12, dim, hidden);

  const Room<Half> qkv(m * 3 * width), mixed(m * width);
  pieces(m, task, [&](int64_t begin, int64_t end) {
    const int64_t rows = end - begin;
    const Room<Half> normed(rows * dim);
    const Room<Pair> pairs(rows * pairs_of_row(dim));
    normalize<Half>(x + begin * dim, rows, dim, vector(2), vector(3), epsilon, normed);
    dense<Half, Half>(normed, rows, dim, of_qkv, vector(5), qkv + begin * 3 * width, 3 * width, pairs);
  });
  half_attention(qkv, batch, tokens, width, heads, nullptr, mixed.get());
  pieces(m, task, [&](int64_t begin, int64_t end) {
    const int64_t rows = end - begin, size = rows * dim;
    const Room<float> branch(size);
    const Room<Half> normed(size);
    const Room<Pair> pairs(rows * pairs_of_row(width));
    float* to = y + begin * dim;
    dense<Half, float>(mixed + begin * width, rows, width, of_proj, vector(7), branch, dim, pairs);
    for (int64_t i = 0; i < size; ++i) to[i] = x[begin * dim + i] + branch[i];
    normalize<Half>(to, rows, dim, vector(8), vector(9), epsilon, normed);
    mlp<Gelu, Half>(normed, begin, rows, dim, of_fc1, vector(11), hidden, of_fc2, vector(13), nullptr, nullptr, branch);
    for (int64_t i = 0; i < size; ++i) to[i] += branch[i];
  });
  return 0;
}

}  // namespace

// weight [N, K] -> the same as Across has it, [up(N, 64) / 64, (K + 1) / 2, 64] pairs (int32)
KERNEL(pack_bfloat16) {
  Across::pack(floats(addresses)[0], shapes[0][0], shapes[0][1], static_cast<Pair*>(addresses[1]));
  return 0;
}

// x [..., K], weight [N, K], bias [N] -> x weight^T + bias, [..., N]
KERNEL(dense_bfloat16) {
  const int64_t m = rows_of(dims[0], shapes[0]), k = shapes[0][dims[0] - 1], n = shapes[2][0];
  const Across weight(types[1], addresses[1], n, k);
  const float* bias = floats(addresses)[2];
  typed(types[0], addresses[0], [&](const auto* x) {
    typed(types[3], addresses[3], [&](auto* y) {
      pieces(m, task_rows(m), [&](int64_t begin, int64_t end) {
        const Room<Pair> pairs((end - begin) * pairs_of_row(k));
        dense(x + begin * k, end - begin, k, weight, bias, y + begin * n, n, pairs);
      });
    });
  });
  return 0;
}

// weight [N, K], dy [..., N] -> dx [..., K]
KERNEL(dense_bfloat16_grad_input) {
  const int64_t n = shapes[0][0], k = shapes[0][1], m = rows_of(dims[1], shapes[1]);
  const Down weight(floats(addresses)[0], n, k);
  const float* dy = floats(addresses)[1];
  float* dx = floats(addresses)[2];
  pieces(m, task_rows(m), [&](int64_t begin, int64_t end) {
    const Room<Pair> pairs((end - begin) * pairs_of_row(n));
    dense_grad(dy + begin * n, end - begin, n, weight, dx + begin * k, k, pairs);
  });
  return 0;
}

// x [..., K], dy [..., N] -> dweight [N, K], dbias [N]
KERNEL(dense_bfloat16_grad_weight) {
  const int64_t m = rows_of(dims[0], shapes[0]), k = shapes[0][dims[0] - 1], n = shapes[1][dims[1] - 1];
  const float* dy = floats(addresses)[1];
  WeightGradient gradient(m, k, n, floats(addresses)[2], floats(addresses)[3]);
  typed(types[0], addresses[0], [&](const auto* x) {
    const auto add = [&](int64_t begin, int64_t end) { gradient.add(begin, end - begin, x + begin * k, dy + begin * n); };
    in_turns(m, add, {&gradient});
  });
  return 0;
}

// x [B, H, W, C], weight [N, 9 * C], bias [N] -> its 3x3 convolution at stride 1, [B, H, W, N]
KERNEL(conv_bfloat16) {
  const int64_t m = rows_of(dims[0], shapes[0]), k = 9 * shapes[0][3], n = shapes[2][0];
  const Across weight(types[1], addresses[1], n, k);
  const float *x = floats(addresses)[0], *bias = floats(addresses)[2];
  float* y = floats(addresses)[3];
  pieces(m, task_rows(m), [&](int64_t begin, int64_t end) {
    const Room<Half> windows((end - begin) * k);
    const Room<Pair> pairs((end - begin) * pairs_of_row(k));
    windows_of(x, shapes[0], begin, end, windows);
    dense<Half>(windows, end - begin, k, weight, bias, y + begin * n, n, pairs);
  });
  return 0;
}

// x [B, H, W, C], dy [B, H, W, N] -> dweight [N, 9 * C], dbias [N]
KERNEL(conv_bfloat16_grad_weight) {
  const int64_t m = rows_of(dims[0], shapes[0]), k = 9 * shapes[0][3], n = shapes[1][3];
  const float *x = floats(addresses)[0], *dy = floats(addresses)[1];
  WeightGradient gradient(m, k, n, floats(addresses)[2], floats(addresses)[3]);
  const auto add = [&](int64_t begin, int64_t end) {
    const Room<Half> windows((end - begin) * k);
    windows_of(x, shapes[0], begin, end, windows);
    gradient.add<Half>(begin, end - begin, windows, dy + begin * n);
  };
  in_turns(m, add, {&gradient});
  return 0;
}

// x [..., D], weight [D], bias [D], epsilon [1] -> y [..., D] (bfloat16)
KERNEL(layer_norm_bfloat16) {
  const float *x = floats(addresses)[0], *weight = floats(addresses)[1], *bias = floats(addresses)[2];
  const float epsilon = floats(addresses)[3][0];
  const int64_t dim = shapes[1][0];
  typed(types[4], addresses[4], [&](auto* y) {
    pieces(size_of(shapes[0], dims[0] - 1), 64, [&](int64_t begin, int64_t end) {
      normalize(x + begin * dim, end - begin, dim, weight, bias, epsilon, y + begin * dim);
    });
  });
  return 0;
}

// qkv [B, N, 3 * H * d] (bfloat16), heads [H] (only its shape is read), what Kept reads (4)
// -> dropout(softmax(q k^T / sqrt(d))) v, [B, N, H * d] (bfloat16)
KERNEL(attention_bfloat16) {
  const Kept kept(addresses + 2, weights_of(shapes[0], shapes[1][0]));
  const Rounded qkv(types[0], addresses[0], size_of(shapes[0], dims[0]));
  typed(types[6], addresses[6], [&](auto* out) {
    half_attention(qkv, shapes[0][0], shapes[0][1], shapes[0][2] / 3, shapes[1][0], &kept, out);
  });
  return 0;
}

// qkv [B, N, 3 * H * d] (bfloat16), heads [H], what Kept reads (4), dout [B, N, H * d] -> dqkv [B, N, 3 * H * d]; weights are
// computed again
KERNEL(attention_bfloat16_grad) {
  const Kept kept(addresses + 2, weights_of(shapes[0], shapes[1][0]));
  const int64_t tokens = shapes[0][1], width = shapes[0][2] / 3;
  const Rounded rounded(types[0], addresses[0], size_of(shapes[0], dims[0]));
  const Half* qkv = rounded;
  const float* dout = floats(addresses)[6];
  float* dqkv = floats(addresses)[7];
  each_half_head(qkv, shapes[0][0], tokens, width, shapes[1][0], [&](const HalfHead& head, int64_t offset) {
    const int64_t dim = head.dim, wide = head.wide(), deep = padded(dim), across = head.across(), down = head.down();
    const int64_t row = pairs_of_row(wide);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    const Room<Pair> k_across(up(tokens, PANEL) * across), v_across(up(tokens, PANEL) * across), k(up(dim, PANEL) * down);
    const Room<Pair> along(QUERIES * std::max(row, pairs_of_row(dim))), left(QUERIES / 2 * wide);
    const Room<Pair> q_down(QUERIES / 2 * up(dim, PANEL)), grad_down(QUERIES / 2 * up(dim, PANEL));
    const Room<float> weights(QUERIES * wide), dscores(QUERIES * wide), dk(tokens * deep), dv(tokens * deep);
    float shares[QUERIES];
    std::fill(dk.get(), dk + tokens * deep, 0.0f);
    std::fill(dv.get(), dv + tokens * deep, 0.0f);
    pair_across(head.k, tokens, dim, head.row, k_across);
    pair_across(head.v, tokens, dim, head.row, v_across);
    pair_rows(head.k, tokens, dim, head.row, k, PANEL, PANEL * down);
    float* to = dqkv + (head.q - qkv);  // for dq; dk and dv lie width and 2 * width further on
    for (int64_t begin = 0; begin < tokens; begin += QUERIES) {
      const int64_t rows = std::min(QUERIES, tokens - begin), half = (rows + 1) / 2;
      const int64_t place = head.place + begin * tokens;
      const Half* q = head.q + begin * head.row;
      const float* grad = dout + offset + begin * width;
      half_attention_weights(head, pair_along(q, head.row, rows, dim, along), rows, k_across, weights, shares);
      multiply(pair_along(grad, width, rows, dim, along), v_across, PANEL * across, across, nullptr, 0, dscores.get(), wide,
               rows, wide);
      drop(kept, place, rows, tokens, dscores, wide);
      for (int64_t r = 0; r < rows; ++r) {
        float *w = weights + r * wide, *d = dscores + r * wide;
        float mean = 0;  // of the row's gradients, by its weights: the softmax's own gradient
        for (int64_t n = 0; n < wide; ++n) w[n] *= shares[r];
        for (int64_t n = 0; n < wide; ++n) mean += w[n] * d[n];
        for (int64_t n = 0; n < wide; ++n) d[n] = w[n] * (d[n] - mean) * scale;
      }
      drop(kept, place, rows, tokens, weights, wide);
      pair_rows(q, rows, dim, head.row, q_down, PANEL, PANEL * half);
      pair_rows(grad, rows, dim, width, grad_down, PANEL, PANEL * half);
      pair_rows<float>(weights, rows, wide, wide, left, wide, 0);
      multiply({left, 1, wide}, grad_down, PANEL * half, half, dv, deep, dv.get(), deep, tokens, dim);
      pair_rows<float>(dscores, rows, wide, wide, left, wide, 0);
      multiply({left, 1, wide}, q_down, PANEL * half, half, dk, deep, dk.get(), deep, tokens, dim);
      multiply(pair_along<float>(dscores, wide, rows, wide, along), k, PANEL * down, down, nullptr, 0, to + begin * head.row,
               head.row, rows, dim);
    }
    for (int64_t n = 0; n < tokens; ++n) {
      std::copy_n(dk + n * deep, dim, to + width + n * head.row);
      std::copy_n(dv + n * deep, dim, to + 2 * width + n * head.row);
    }
  });
  return 0;
}

KERNEL(mlp_bfloat16_exact) { return mlp_kernel<Exact>(addresses, dims, shapes, types); }
KERNEL(mlp_bfloat16_tanh) { return mlp_kernel<Tanh>(addresses, dims, shapes, types); }
KERNEL(mlp_bfloat16_exact_grad) { return mlp_grad_kernel<Exact>(addresses, dims, shapes, types); }
KERNEL(mlp_bfloat16_tanh_grad) { return mlp_grad_kernel<Tanh>(addresses, dims, shapes, types); }
KERNEL(block_bfloat16_exact) { return block_kernel<Exact>(addresses, shapes, types); }
KERNEL(block_bfloat16_tanh) { return block_kernel<Tanh>(addresses, shapes, types); }
