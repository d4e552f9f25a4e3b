// LayerNorm, GELU, attention, dropout and a convolution's windows for the CPU, each in one pass over memory, with the
// gradients of all, and Adam.
//
// MindSpore calls these through ops.Custom ("aot"); compiled.py builds this file and wraps them. Every function gets the
// addresses and shapes of its inputs, then of its outputs, contiguous and float32 unless said; it returns 0.
// Matrices are row-major. Every sum is taken in one order on any number of threads, so results don't depend on it.

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

// --- threads

// Threads that sleep between calls: spinning ones would take the cores from MindSpore's own matrix products.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) std::thread([this] { serve(); }).detach();
    helpers_ = threads - 1;
  }

  int threads() const { return helpers_ + 1; }

  // task(0) ... task(count - 1), in any order, several at a time.
  void run(int64_t count, const std::function<void(int64_t)>& task) {
    std::lock_guard<std::mutex> one_call_at_a_time(calls_);
    {
      std::lock_guard<std::mutex> lock(state_);
      task_ = &task;
      count_ = count;
      next_ = 0;
      working_ = helpers_;
      ++call_;
    }
    wake_.notify_all();
    work();
    std::unique_lock<std::mutex> lock(state_);
    done_.wait(lock, [this] { return working_ == 0; });
  }

 private:
  void work() {
    for (int64_t i = next_++; i < count_; i = next_++) (*task_)(i);
  }

  void serve() {
    for (int64_t seen = 0;;) {
      std::unique_lock<std::mutex> lock(state_);
      wake_.wait(lock, [&] { return call_ != seen; });
      seen = call_;
      lock.unlock();
      work();
      lock.lock();
      if (--working_ == 0) done_.notify_one();
    }
  }

  std::mutex calls_, state_;
  std::condition_variable wake_, done_;
  const std::function<void(int64_t)>* task_ = nullptr;
  std::atomic<int64_t> next_{0};
  int64_t count_ = 0, call_ = 0;
  int helpers_ = 0, working_ = 0;
};

Pool* pool = nullptr;  // never destroyed: its threads sleep in it until the process ends

void parallel(int64_t count, const std::function<void(int64_t)>& task) {
  if (pool == nullptr || count == 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
  } else {
    pool->run(count, task);
  }
}

// Calls body(begin, end) for [0, size) in pieces of `grain`.
template <class Body>
void pieces(int64_t size, int64_t grain, const Body& body) {
  parallel((size + grain - 1) / grain, [&](int64_t i) { body(i * grain, std::min(size, (i + 1) * grain)); });
}

// --- functions of one number

// e^x for x <= 0, to 1e-7 relative; below -87, where float32 ends, e^-87.
inline float exp_negative(float x) {
  x = std::max(x, -87.0f);
  const int n = static_cast<int>(x * 1.44269504f - 0.5f);  // to the nearest, since x <= 0
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t bits = (n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

struct Normal {
  float below;    // Phi(x), the share of a standard normal distribution below x
  float density;  // phi(x)
};

// The tail of the normal distribution is e^(-x^2/2) R(t), t = 1 / (1 + 0.26 |x|); R is our own minimax fit of degree 9,
// 2.5e-8 relative for all |x| <= 14. So the tail keeps its digits where 1 + erf(x) would lose them.
inline Normal normal(float x) {
  const float z = std::fabs(x);
  const float t = 1.0f / (1.0f + 0.26f * z);
  const float e = exp_negative(-0.5f * z * z);
  float r = 0.03050503f;
  r = r * t - 0.15282952f;
  r = r * t + 0.25149268f;
  r = r * t - 0.15095048f;
  r = r * t + 0.16094886f;
  r = r * t + 0.05102728f;
  r = r * t + 0.10303035f;
  r = r * t + 0.10301674f;
  r = r * t + 0.10375906f;
  const float tail = e * r * t;
  return {x < 0 ? tail : 1.0f - tail, 0.39894228f * e};
}

// The sigmoid that stands for Phi in the tanh approximation of GELU.
inline float sigmoid_of_cubic(float x) {
  const float y = 1.5957691216f * (x + 0.044715f * x * x * x);
  const float e = exp_negative(-std::fabs(y));
  return (y < 0 ? e : 1.0f) / (1.0f + e);
}

struct Exact {
  static float value(float x) { return x * normal(x).below; }
  static float slope(float x) {
    const Normal n = normal(x);
    return n.below + x * n.density;
  }
};

struct Tanh {
  static float value(float x) { return x * sigmoid_of_cubic(x); }
  static float slope(float x) {
    const float s = sigmoid_of_cubic(x);
    return s + x * s * (1.0f - s) * 1.5957691216f * (1.0f + 3 * 0.044715f * x * x);
  }
};

// A hash that leaves no pattern: Chris Wellons' lowbias32.
inline uint32_t mixed(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// --- small matrix products, on one thread

#if defined(__AVX512F__)
constexpr int W = 16, ROWS = 6, COLUMNS = 4;  // 24 of 32 registers hold sums
#elif defined(__AVX__)
constexpr int W = 8, ROWS = 4, COLUMNS = 2;   // 8 of 16
#else
constexpr int W = 4, ROWS = 6, COLUMNS = 4;   // NEON has 32, too
#endif
typedef float Vec __attribute__((vector_size(W * sizeof(float)), aligned(sizeof(float))));

inline int64_t padded(int64_t n) { return (n + W - 1) / W * W; }

// A matrix that is read at a[m * row + k * column].
struct Matrix {
  const float* at;
  int64_t row, column;
};

// c[R, V * W] = start + a[R, depth] b[depth, V * W], where start has the shape of c, or of one row if its rows lie 0 apart.
template <int R, int V>
void tile(Matrix a, const float* b, int64_t b_row, const float* start, int64_t start_row, float* c, int64_t c_row,
          int64_t depth) {
  Vec sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = *reinterpret_cast<const Vec*>(start + r * start_row + v * W);
  for (int64_t k = 0; k < depth; ++k) {
    Vec row[V];
    for (int v = 0; v < V; ++v) row[v] = *reinterpret_cast<const Vec*>(b + k * b_row + v * W);
    for (int r = 0; r < R; ++r) {
      const float x = a.at[r * a.row + k * a.column];
      for (int v = 0; v < V; ++v) sum[r][v] += x * row[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) *reinterpret_cast<Vec*>(c + r * c_row + v * W) = sum[r][v];
}

template <int R>
void row_of_tiles(Matrix a, const float* b, int64_t b_row, const float* start, int64_t start_row, float* c,
                  int64_t c_row, int64_t columns, int64_t depth) {
  int64_t n = 0;
  for (; n + COLUMNS * W <= columns; n += COLUMNS * W)
    tile<R, COLUMNS>(a, b + n, b_row, start + n, start_row, c + n, c_row, depth);
  for (; n < columns; n += W) tile<R, 1>(a, b + n, b_row, start + n, start_row, c + n, c_row, depth);
}

// c[rows, columns] = start + a[rows, depth] b[depth, columns] for matrices that stay in a core's own cache; columns is a
// multiple of W.
void multiply(Matrix a, const float* b, int64_t b_row, const float* start, int64_t start_row, float* c, int64_t c_row,
              int64_t rows, int64_t columns, int64_t depth) {
  for (int64_t m = 0; m < rows;) {
    const Matrix rest = {a.at + m * a.row, a.row, a.column};
    const auto next = [&](auto r) {
      row_of_tiles<r>(rest, b, b_row, start + m * start_row, start_row, c + m * c_row, c_row, columns, depth);
      m += r;
    };
    if (rows - m >= ROWS) next(std::integral_constant<int, ROWS>());
    else if (rows - m >= 3) next(std::integral_constant<int, 3>());
    else if (rows - m == 2) next(std::integral_constant<int, 2>());
    else next(std::integral_constant<int, 1>());
  }
}

// The largest of `size` numbers, a multiple of W.
float maximum(const float* x, int64_t size) {
  Vec highest = *reinterpret_cast<const Vec*>(x);
  for (int64_t n = W; n < size; n += W) {
    const Vec next = *reinterpret_cast<const Vec*>(x + n);
    highest = next > highest ? next : highest;
  }
  float result = highest[0];
  for (int i = 1; i < W; ++i) result = std::max(result, highest[i]);
  return result;
}

// Memory of a thread that stays from call to call.
float* scratch(int slot, int64_t size) {
  static thread_local std::vector<float> buffers[8];
  if (buffers[slot].size() < static_cast<size_t>(size)) buffers[slot].resize(size);
  return buffers[slot].data();
}

const float* zeros(int64_t size) {
  static thread_local std::vector<float> buffer;
  if (buffer.size() < static_cast<size_t>(size)) buffer.resize(size);
  return buffer.data();
}

// --- dropout

float** floats(void** addresses) { return reinterpret_cast<float**>(addresses); }

// What dropout leaves, as a hash of seed, layer, step and the place in a whole batch says, of which this is an equal part.
class Kept {
 public:
  // addresses of step [1], the part's number [1], salt [2] (int32), (threshold, scale) [2]; size: of this part
  Kept(void** addresses, int64_t size)
      : threshold_(static_cast<uint32_t>(floats(addresses)[3][0])), scale_(floats(addresses)[3][1]) {
    const auto whole = [&](int i) { return static_cast<const uint32_t*>(addresses[i]); };
    before_ = whole(1)[0] * static_cast<uint32_t>(size);
    first_ = mixed(mixed(whole(0)[0] ^ whole(2)[0]));
    second_ = mixed(first_ ^ whole(2)[1]);
  }
  // y[size] = x times the scale or 0; the first of them is at `place` in the part. y may be x.
  void apply(const float* x, int64_t size, int64_t place, float* y) const {
    const uint32_t threshold = threshold_, first = first_, second = second_, begin = before_ + static_cast<uint32_t>(place);
    const float scale = scale_;
    for (int64_t i = 0; i < size; ++i) {
      const uint32_t bits = mixed(mixed((begin + static_cast<uint32_t>(i)) ^ first) + second) >> 8;
      y[i] = x[i] * (bits >= threshold ? scale : 0.0f);
    }
  }
  bool all() const { return threshold_ == 0; }

 private:
  const uint32_t threshold_;
  const float scale_;
  uint32_t before_, first_, second_;
};

// --- attention

// One head of one image, cut out of [N, 3 * H * d].
struct Head {
  int64_t tokens, dim, row;       // N, d, and the distance of two tokens in memory
  int64_t wide, deep;             // N and d filled up to whole vectors
  const float *q, *k, *v;
  int64_t place;                  // of its first weight among those of all heads, [B, H, N, N]
};

// to[tokens, deep] = from * scale, filled up with zeros.
void pack(const Head& head, const float* from, int64_t row, float scale, float* to) {
  for (int64_t n = 0; n < head.tokens; ++n) {
    for (int64_t c = 0; c < head.dim; ++c) to[n * head.deep + c] = from[n * row + c] * scale;
    for (int64_t c = head.dim; c < head.deep; ++c) to[n * head.deep + c] = 0;
  }
}

// to[dim, wide] = from^T * scale, filled up with zeros.
void pack_transposed(const Head& head, const float* from, int64_t row, float scale, float* to) {
  for (int64_t c = 0; c < head.dim; ++c)
    for (int64_t n = head.tokens; n < head.wide; ++n) to[c * head.wide + n] = 0;
  for (int64_t n = 0; n < head.tokens; ++n)
    for (int64_t c = 0; c < head.dim; ++c) to[c * head.wide + n] = from[n * row + c] * scale;
}

// weights[rows, wide] = e^(weights - its row's largest) for a block of query rows, filled up with zeros; shares[rows] are the
// factors that make each row sum to 1.
void softmax(const Head& head, int64_t rows, float* weights, float* shares) {
  for (int64_t r = 0; r < rows; ++r) {
    float* w = weights + r * head.wide;
    for (int64_t n = head.tokens; n < head.wide; ++n) w[n] = w[0];
    const float highest = maximum(w, head.wide);
    float sum = 0;
    for (int64_t n = 0; n < head.tokens; ++n) sum += w[n] = exp_negative(w[n] - highest);
    for (int64_t n = head.tokens; n < head.wide; ++n) w[n] = 0;
    shares[r] = 1.0f / sum;
  }
}

// The same of q k^T.
void attention_weights(const Head& head, int64_t first, int64_t rows, const float* k_transposed, float* weights,
                       float* shares) {
  multiply({head.q + first * head.row, head.row, 1}, k_transposed, head.wide, zeros(head.wide), 0, weights, head.wide,
           rows, head.wide, head.dim);
  softmax(head, rows, weights, shares);
}

// Drops of weights[rows, tokens], whose rows lie `wide` apart; the first of them is at `place`.
void drop(const Kept& kept, int64_t place, int64_t rows, int64_t tokens, float* weights, int64_t wide) {
  if (kept.all()) return;
  for (int64_t r = 0; r < rows; ++r) kept.apply(weights + r * wide, tokens, place + r * tokens, weights + r * wide);
}

constexpr int64_t BLOCK = 48;  // query rows at a time: their weights for 200 tokens, 40 KB, stay in a core's own cache

// How many weights there are for qkv of that shape.
int64_t weights_of(const int64_t* qkv, int64_t heads) { return qkv[0] * heads * qkv[1] * qkv[1]; }

// Calls body(head, where its first output is in [N, H * d]) for each image and head of qkv [B, N, 3 * H * d].
template <class Body>
void each_head(const float* qkv, const int64_t* shape, int64_t heads, const Body& body) {
  const int64_t batch = shape[0], tokens = shape[1], width = shape[2] / 3, dim = width / heads;
  parallel(batch * heads, [&](int64_t i) {
    const int64_t image = i / heads, offset = i % heads * dim;
    const float* first = qkv + image * tokens * 3 * width + offset;
    const Head head = {tokens, dim, 3 * width, padded(tokens), padded(dim), first, first + width, first + 2 * width,
                       i * tokens * tokens};
    body(head, image * tokens * width + offset);
  });
}

int64_t size_of(const int64_t* shape, int count) {
  int64_t size = 1;
  for (int i = 0; i < count; ++i) size *= shape[i];
  return size;
}

// --- element by element

template <class Gelu>
int gelu(void** addresses, const int* dims, int64_t** shapes) {
  const float* x = floats(addresses)[0];
  float* y = floats(addresses)[1];
  pieces(size_of(shapes[0], dims[0]), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = Gelu::value(x[i]);
  });
  return 0;
}

template <class Gelu>
int gelu_grad(void** addresses, const int* dims, int64_t** shapes) {
  const float *x = floats(addresses)[0], *dy = floats(addresses)[1];
  float* dx = floats(addresses)[2];
  pieces(size_of(shapes[0], dims[0]), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) dx[i] = dy[i] * Gelu::slope(x[i]);
  });
  return 0;
}

struct Moments {
  float mean, rstd;
};

Moments moments(const float* x, int64_t dim, float epsilon) {
  float sum = 0, squares = 0;
  for (int64_t i = 0; i < dim; ++i) sum += x[i];
  const float mean = sum / dim;
  for (int64_t i = 0; i < dim; ++i) squares += (x[i] - mean) * (x[i] - mean);
  return {mean, 1.0f / std::sqrt(squares / dim + epsilon)};
}

}  // namespace

#define KERNEL(name) \
  extern "C" int name(int count, void** addresses, int* dims, int64_t** shapes, const char** types, void*, void*)

// Called once, before any other.
extern "C" void use_threads(int threads) {
  if (pool == nullptr && threads > 1) pool = new Pool(threads);
}

// x [...] -> the sum of its squares [1]
KERNEL(square_sum) {
  const float* x = floats(addresses)[0];
  constexpr int64_t GRAIN = 65536;
  const int64_t size = size_of(shapes[0], dims[0]);
  std::vector<double> sums((size + GRAIN - 1) / GRAIN);
  pieces(size, GRAIN, [&](int64_t begin, int64_t end) {
    float sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += x[i] * x[i];
    sums[begin / GRAIN] = sum;
  });
  double sum = 0;
  for (const double part : sums) sum += part;
  floats(addresses)[1][0] = static_cast<float>(sum);
  return 0;
}

// param [...], moment1 [...], moment2 [...], which are changed, gradient [...], common [8] (a factor of the gradient, learning
// rate, beta1, beta2, these two to the power of the step, epsilon, 1 for AdamW and 0 for Adam), own [2] (a factor of the
// rate, weight decay) -> done [1]
//
// As Adam of training/optimizers.py, in one pass over memory.
KERNEL(adam) {
  const auto [factor, base_rate, beta1, beta2, power1, power2, epsilon, decoupled] =
      *reinterpret_cast<const std::array<float, 8>*>(addresses[4]);
  const auto [scale, decay] = *reinterpret_cast<const std::array<float, 2>*>(addresses[5]);
  float *param = floats(addresses)[0], *first = floats(addresses)[1], *second = floats(addresses)[2];
  const float* gradient = floats(addresses)[3];
  const float rate = base_rate * scale, shrink = 1 - rate * decay * decoupled, l2 = decay * (1 - decoupled);
  const float correction = std::sqrt(1 - power2), step = rate * correction / (1 - power1), eps = epsilon * correction;
  pieces(size_of(shapes[0], dims[0]), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float g = gradient[i] * factor + l2 * param[i];
      const float m = first[i] + (g - first[i]) * (1 - beta1), v = second[i] + (g * g - second[i]) * (1 - beta2);
      first[i] = m;
      second[i] = v;
      param[i] = param[i] * shrink - step * m / (std::sqrt(v) + eps);
    }
  });
  floats(addresses)[6][0] = 1;
  return 0;
}

// x -> y
KERNEL(gelu_exact) { return gelu<Exact>(addresses, dims, shapes); }
KERNEL(gelu_tanh) { return gelu<Tanh>(addresses, dims, shapes); }

// x, dy -> dx
KERNEL(gelu_exact_grad) { return gelu_grad<Exact>(addresses, dims, shapes); }
KERNEL(gelu_tanh_grad) { return gelu_grad<Tanh>(addresses, dims, shapes); }

// x, step [1], part [1], salt [2] (these as int32), (threshold, scale) [2] -> y, that is x times the scale or 0, as the hash
// of all these and of the place says
KERNEL(dropout) {
  const float* x = floats(addresses)[0];
  float* y = floats(addresses)[5];
  const int64_t size = size_of(shapes[0], dims[0]);
  const Kept kept(addresses + 1, size);
  pieces(size, 16384,
         [&](int64_t begin, int64_t end) { kept.apply(x + begin, end - begin, begin, y + begin); });
  return 0;
}

// x [B, H, W, C], stride [S] (only its shape is read) -> y [B, H / S, W / S, 9 * C], rounded up: the 3x3 windows around pixels
// that lie S apart, with zeros beyond the border
KERNEL(windows) {
  const float* x = floats(addresses)[0];
  float* y = floats(addresses)[2];
  const int64_t height = shapes[0][1], width = shapes[0][2], channels = shapes[0][3];
  const int64_t stride = shapes[1][0], rows = shapes[2][1], columns = shapes[2][2];
  parallel(shapes[0][0] * rows, [&](int64_t row) {
    const float* image = x + row / rows * height * width * channels;
    float* to = y + row * columns * 9 * channels;
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t h = stride * (row % rows) - 1, below = h + 3; h < below; ++h)
        for (int64_t w = stride * column - 1, beyond = w + 3; w < beyond; ++w, to += channels)
          if (0 <= h && h < height && 0 <= w && w < width)
            std::copy_n(image + (h * width + w) * channels, channels, to);
          else
            std::fill_n(to, channels, 0.0f);
  });
  return 0;
}

// x [B, H, W, C], stride [S], dy [B, H / S, W / S, 9 * C] -> dx [B, H, W, C]; every pixel sums what the windows got from it
KERNEL(windows_grad) {
  const float* dy = floats(addresses)[2];
  float* dx = floats(addresses)[3];
  const int64_t height = shapes[0][1], width = shapes[0][2], channels = shapes[0][3];
  const int64_t stride = shapes[1][0], rows = shapes[2][1], columns = shapes[2][2];
  parallel(shapes[0][0] * height, [&](int64_t row) {
    const int64_t image = row / height, h = row % height;
    float* line = dx + row * width * channels;
    std::fill_n(line, width * channels, 0.0f);
    for (int64_t i = (h + 1) % stride; i < 3; i += stride) {  // h is line i of the windows around line h + 1 - i
      const int64_t around = (h + 1 - i) / stride;
      if (h + 1 < i || around >= rows) continue;
      const float* from = dy + ((image * rows + around) * columns * 3 + i) * 3 * channels;
      for (int64_t column = 0; column < columns; ++column, from += 9 * channels)
        for (int64_t j = 0; j < 3; ++j) {
          const int64_t w = stride * column - 1 + j;
          if (w < 0 || w >= width) continue;
          for (int64_t c = 0; c < channels; ++c) line[w * channels + c] += from[j * channels + c];
        }
    }
  });
  return 0;
}

// x [B, H, W, C] -> y [B, H / 2, W / 2, C], the largest of each 2x2 pixels
KERNEL(max_pool) {
  const float* x = floats(addresses)[0];
  float* y = floats(addresses)[1];
  const int64_t rows = shapes[1][1], columns = shapes[1][2], channels = shapes[0][3], line = shapes[0][2] * channels;
  parallel(shapes[0][0] * rows, [&](int64_t row) {
    for (int64_t column = 0; column < columns; ++column) {
      const float* from = x + 2 * row * line + 2 * column * channels;
      float* to = y + (row * columns + column) * channels;
      for (int64_t c = 0; c < channels; ++c)
        to[c] = std::max(std::max(from[c], from[channels + c]), std::max(from[line + c], from[line + channels + c]));
    }
  });
  return 0;
}

// x [B, H, W, C], y [B, H / 2, W / 2, C], dy as y -> dx as x; of equal pixels the first has it
KERNEL(max_pool_grad) {
  const float *x = floats(addresses)[0], *y = floats(addresses)[1], *dy = floats(addresses)[2];
  float* dx = floats(addresses)[3];
  const int64_t rows = shapes[1][1], columns = shapes[1][2], channels = shapes[0][3], line = shapes[0][2] * channels;
  parallel(shapes[0][0] * rows, [&](int64_t row) {
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t at = 2 * row * line + 2 * column * channels, from = (row * columns + column) * channels;
      const float *x1 = x + at, *x2 = x1 + channels, *x3 = x1 + line, *x4 = x3 + channels;
      float *dx1 = dx + at, *dx2 = dx1 + channels, *dx3 = dx1 + line, *dx4 = dx3 + channels;
      const float *largest = y + from, *gradient = dy + from;
#pragma GCC ivdep  // in vectors: dx is apart from the rest
      for (int64_t c = 0; c < channels; ++c) {
        const float most = largest[c], given = gradient[c];
        const bool is1 = x1[c] == most, is2 = x2[c] == most, is3 = x3[c] == most, is4 = x4[c] == most;
        dx1[c] = is1 ? given : 0.0f;
        dx2[c] = is2 & !is1 ? given : 0.0f;
        dx3[c] = is3 & !(is1 | is2) ? given : 0.0f;
        dx4[c] = is4 & !(is1 | is2 | is3) ? given : 0.0f;
      }
    }
  });
  return 0;
}

// Sums over the rows of [M, C], in one order: add(first row, row beyond, sums [K * C]) has the sums of some rows, zero at first.
template <int K, class Add>
std::vector<double> column_sums(int64_t rows, int64_t channels, const Add& add) {
  constexpr int64_t GRAIN = 256;
  const int64_t tasks = (rows + GRAIN - 1) / GRAIN, size = K * channels;
  std::vector<float> parts(tasks * size);
  pieces(rows, GRAIN, [&](int64_t begin, int64_t end) { add(begin, end, parts.data() + begin / GRAIN * size); });
  std::vector<double> sums(size);
  for (int64_t i = 0; i < tasks * size; ++i) sums[i % size] += parts[i];
  return sums;
}

// x [..., C], weight [C], bias [C], epsilon [1] -> y [..., C], mean [C], variance [C]; both over all but the last axis
KERNEL(batch_norm) {
  const float *x = floats(addresses)[0], *weight = floats(addresses)[1], *bias = floats(addresses)[2];
  const float epsilon = floats(addresses)[3][0];
  float *y = floats(addresses)[4], *mean = floats(addresses)[5], *variance = floats(addresses)[6];
  const int64_t channels = shapes[1][0], rows = size_of(shapes[0], dims[0] - 1);
  const std::vector<double> sums = column_sums<1>(rows, channels, [&](int64_t begin, int64_t end, float* sum) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = 0; c < channels; ++c) sum[c] += x[row * channels + c];
  });
  for (int64_t c = 0; c < channels; ++c) mean[c] = static_cast<float>(sums[c] / rows);
  const std::vector<double> squares = column_sums<1>(rows, channels, [&](int64_t begin, int64_t end, float* sum) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = 0; c < channels; ++c) {
        const float off = x[row * channels + c] - mean[c];
        sum[c] += off * off;
      }
  });
  std::vector<float> scale(channels), shift(channels);
  for (int64_t c = 0; c < channels; ++c) {
    variance[c] = static_cast<float>(squares[c] / rows);
    scale[c] = weight[c] / std::sqrt(variance[c] + epsilon);
    shift[c] = bias[c] - mean[c] * scale[c];
  }
  pieces(rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = 0; c < channels; ++c) y[row * channels + c] = x[row * channels + c] * scale[c] + shift[c];
  });
  return 0;
}

// x [..., C], weight [C], epsilon [1], mean [C], variance [C], dy [..., C] -> dx [..., C], dweight [C], dbias [C]
KERNEL(batch_norm_grad) {
  const float *x = floats(addresses)[0], *weight = floats(addresses)[1], epsilon = floats(addresses)[2][0];
  const float *mean = floats(addresses)[3], *variance = floats(addresses)[4], *dy = floats(addresses)[5];
  float *dx = floats(addresses)[6], *dweight = floats(addresses)[7], *dbias = floats(addresses)[8];
  const int64_t channels = shapes[1][0], rows = size_of(shapes[0], dims[0] - 1);
  const std::vector<double> sums = column_sums<2>(rows, channels, [&](int64_t begin, int64_t end, float* sum) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = 0; c < channels; ++c) {
        const float gradient = dy[row * channels + c];
        sum[c] += gradient;
        sum[channels + c] += gradient * (x[row * channels + c] - mean[c]);
      }
  });
  // dx = scale * (dy - its mean - (x - mean) / variance * the mean of dy (x - mean))
  std::vector<float> scale(channels), middle(channels), slope(channels);
  for (int64_t c = 0; c < channels; ++c) {
    const double rstd = 1 / std::sqrt(static_cast<double>(variance[c]) + epsilon);
    dbias[c] = static_cast<float>(sums[c]);
    dweight[c] = static_cast<float>(sums[channels + c] * rstd);
    scale[c] = static_cast<float>(weight[c] * rstd);
    middle[c] = static_cast<float>(sums[c] / rows);
    slope[c] = static_cast<float>(sums[channels + c] * rstd * rstd / rows);
  }
  pieces(rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t i = row * channels + c;
        dx[i] = scale[c] * (dy[i] - middle[c] - slope[c] * (x[i] - mean[c]));
      }
  });
  return 0;
}

// x [..., D], weight [D], bias [D], epsilon [1] -> y [..., D]
KERNEL(layer_norm) {
  const float *x = floats(addresses)[0], *weight = floats(addresses)[1], *bias = floats(addresses)[2];
  const float epsilon = floats(addresses)[3][0];
  float* y = floats(addresses)[4];
  const int64_t dim = shapes[1][0];
  pieces(size_of(shapes[0], dims[0] - 1), 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * dim; row < end * dim; row += dim) {
      const auto [mean, rstd] = moments(x + row, dim, epsilon);
      for (int64_t i = 0; i < dim; ++i) y[row + i] = (x[row + i] - mean) * rstd * weight[i] + bias[i];
    }
  });
  return 0;
}

// x [..., D], weight [D], epsilon [1], dy [..., D] -> dx [..., D], dweight [D], dbias [D]
KERNEL(layer_norm_grad) {
  constexpr int64_t GRAIN = 64;
  const float *x = floats(addresses)[0], *weight = floats(addresses)[1], *dy = floats(addresses)[3];
  const float epsilon = floats(addresses)[2][0];
  float *dx = floats(addresses)[4], *dweight = floats(addresses)[5], *dbias = floats(addresses)[6];
  const int64_t dim = shapes[1][0], rows = size_of(shapes[0], dims[0] - 1), tasks = (rows + GRAIN - 1) / GRAIN;
  std::vector<float> sums(tasks * 2 * dim);  // of dweight and dbias, by task
  pieces(rows, GRAIN, [&](int64_t begin, int64_t end) {
    float* to_weight = sums.data() + begin / GRAIN * 2 * dim;
    float* to_bias = to_weight + dim;
    for (int64_t row = begin * dim; row < end * dim; row += dim) {
      const float *in = x + row, *grad = dy + row;
      const auto [mean, rstd] = moments(in, dim, epsilon);
      float along = 0, across = 0;  // means of the gradient and of its product with the normalised input
      for (int64_t i = 0; i < dim; ++i) {
        const float normed = (in[i] - mean) * rstd, g = grad[i] * weight[i];
        along += g;
        across += g * normed;
        to_weight[i] += grad[i] * normed;
        to_bias[i] += grad[i];
      }
      along /= dim;
      across /= dim;
      for (int64_t i = 0; i < dim; ++i)
        dx[row + i] = rstd * (grad[i] * weight[i] - along - (in[i] - mean) * rstd * across);
    }
  });
  std::fill(dweight, dweight + dim, 0.0f);
  std::fill(dbias, dbias + dim, 0.0f);
  for (int64_t task = 0; task < tasks; ++task) {
    for (int64_t i = 0; i < dim; ++i) dweight[i] += sums[task * 2 * dim + i];
    for (int64_t i = 0; i < dim; ++i) dbias[i] += sums[task * 2 * dim + dim + i];
  }
  return 0;
}

// qkv [B, N, 3 * H * d], heads [H] (only its shape is read), what Kept reads (4) -> dropout(softmax(q k^T / sqrt(d))) v,
// [B, N, H * d]
KERNEL(attention) {
  const int64_t heads = shapes[1][0], width = shapes[0][2] / 3;
  const Kept kept(addresses + 2, weights_of(shapes[0], heads));
  float* out = floats(addresses)[6];
  each_head(floats(addresses)[0], shapes[0], heads, [&](const Head& head, int64_t offset) {
    float* k_transposed = scratch(0, head.dim * head.wide);
    float* v = scratch(1, head.tokens * head.deep);
    float* weights = scratch(2, BLOCK * head.wide);
    float* mixed = scratch(3, BLOCK * head.deep);
    float shares[BLOCK];
    pack_transposed(head, head.k, head.row, 1.0f / std::sqrt(static_cast<float>(head.dim)), k_transposed);
    pack(head, head.v, head.row, 1.0f, v);
    for (int64_t first = 0; first < head.tokens; first += BLOCK) {
      const int64_t rows = std::min(BLOCK, head.tokens - first);
      attention_weights(head, first, rows, k_transposed, weights, shares);
      drop(kept, head.place + first * head.tokens, rows, head.tokens, weights, head.wide);
      multiply({weights, head.wide, 1}, v, head.deep, zeros(head.deep), 0, mixed, head.deep, rows, head.deep, head.tokens);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < head.dim; ++c)
          out[offset + (first + r) * width + c] = mixed[r * head.deep + c] * shares[r];
    }
  });
  return 0;
}

// qkv [B, N, 3 * H * d], heads [H], what Kept reads (4), out [B, N, H * d], dout [B, N, H * d] -> dqkv [B, N, 3 * H * d]
//
// The attention weights are computed again rather than kept, as in FlashAttention (Dao et al. 2022, alg. 4).
KERNEL(attention_grad) {
  const int64_t heads = shapes[1][0], width = shapes[0][2] / 3;
  const Kept kept(addresses + 2, weights_of(shapes[0], heads));
  const float *qkv = floats(addresses)[0], *out = floats(addresses)[6], *dout = floats(addresses)[7];
  float* dqkv = floats(addresses)[8];
  each_head(qkv, shapes[0], heads, [&](const Head& head, int64_t offset) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(head.dim));
    const int64_t tokens = head.tokens, wide = head.wide, deep = head.deep;
    float* k_transposed = scratch(0, head.dim * wide);
    float* v_transposed = scratch(1, head.dim * wide);
    float* k = scratch(2, tokens * deep);
    float* rows_of = scratch(3, 3 * BLOCK * deep);  // q, dout and dq of a block of query rows
    float* weights = scratch(4, BLOCK * wide);
    float* dweights = scratch(5, BLOCK * wide);
    float* dk = scratch(6, tokens * deep);
    float* dv = scratch(7, tokens * deep);
    std::fill(dk, dk + tokens * deep, 0.0f);
    std::fill(dv, dv + tokens * deep, 0.0f);
    float shares[BLOCK];
    float *q = rows_of, *dmixed = q + BLOCK * deep, *dq = dmixed + BLOCK * deep;
    pack_transposed(head, head.k, head.row, scale, k_transposed);
    pack_transposed(head, head.v, head.row, 1.0f, v_transposed);
    pack(head, head.k, head.row, scale, k);
    float* grad = dqkv + (head.q - qkv);  // of q; those of k and v lie width and 2 * width further on
    for (int64_t first = 0; first < tokens; first += BLOCK) {
      const int64_t rows = std::min(BLOCK, tokens - first);
      const int64_t place = head.place + first * tokens;
      const Head block = {rows, head.dim, head.row, wide, deep, nullptr, nullptr, nullptr, place};
      pack(block, head.q + first * head.row, head.row, scale, q);
      pack(block, dout + offset + first * width, width, 1.0f, dmixed);
      attention_weights(head, first, rows, k_transposed, weights, shares);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t n = 0; n < wide; ++n) weights[r * wide + n] *= shares[r];
      multiply({dmixed, deep, 1}, v_transposed, wide, zeros(wide), 0, dweights, wide, rows, wide, head.dim);
      drop(kept, place, rows, tokens, dweights, wide);
      for (int64_t r = 0; r < rows; ++r) {
        const float* mixed = out + offset + (first + r) * width;
        float mean = 0;  // of the row's dweights, by its weights: the softmax's own gradient
        for (int64_t c = 0; c < head.dim; ++c) mean += mixed[c] * dmixed[r * deep + c];
        float* d = dweights + r * wide;
        for (int64_t n = 0; n < wide; ++n) d[n] = weights[r * wide + n] * (d[n] - mean);
      }
      drop(kept, place, rows, tokens, weights, wide);
      multiply({weights, 1, wide}, dmixed, deep, dv, deep, dv, deep, tokens, deep, rows);
      multiply({dweights, wide, 1}, k, deep, zeros(deep), 0, dq, deep, rows, deep, tokens);
      multiply({dweights, 1, wide}, q, deep, dk, deep, dk, deep, tokens, deep, rows);
      for (int64_t r = 0; r < rows; ++r) std::copy_n(dq + r * deep, head.dim, grad + (first + r) * head.row);
    }
    for (int64_t n = 0; n < tokens; ++n) {
      std::copy_n(dk + n * deep, head.dim, grad + width + n * head.row);
      std::copy_n(dv + n * deep, head.dim, grad + 2 * width + n * head.row);
    }
  });
  return 0;
}

#ifdef __AVX512BF16__
#include "bfloat16.h"
#endif
