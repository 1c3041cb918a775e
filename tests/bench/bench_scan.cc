#include "tests/bench/bench_scan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/cpu_backend.h"
#include "nlohmann/json.hpp"
#include "tests/bench/read_loop.h"

namespace lift::bench {
namespace {

using Floats = std::vector<float>;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

Floats Random(int64_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Floats out(Size(n));
  for (float& value : out) value = normal(random);
  return out;
}

// One layer and its inputs, of one sequence from its beginning.
struct Layer {
  Layer(int64_t heads, int64_t head_dim, int64_t states, int64_t tokens)
      : tokens(tokens),
        a(Random(head_dim == 1 ? heads * states : heads, 1)),
        d(Random(heads, 2)),
        bias(Random(heads, 3)),
        x(Random(tokens * heads * head_dim, 4)),
        dt(Random(tokens * heads, 5)),
        b(Random(tokens * states, 6)),
        c(Random(tokens * states, 7)),
        state(Size(heads * head_dim * states)) {
    for (float& v : a) v = -std::abs(v) - 0.1f;
    for (float& v : bias) v -= 4.0f;  // steps around .02, as in trained models
    scan.heads = heads, scan.head_dim = head_dim, scan.states = states;
    scan.a = a.data(), scan.a_per_state = head_dim == 1, scan.d = d.data();
    scan.dt_bias = bias.data(), scan.dt_max = 100, scan.state_pitch = heads * head_dim * states;
    in = {x.data(), dt.data(), b.data(), c.data(), heads * head_dim, heads, states};
  }
  int64_t tokens;
  Floats a, d, bias, x, dt, b, c, state;
  ScanLayer scan;
  ScanInputs in;
};

void Multiply(Backend& backend, const Floats& w, int64_t rows, int64_t cols, const Floats& x,
              int64_t tokens, Floats& y) {
  y.resize(Size(tokens * rows));
  backend.DenseMatmul({DType::kF32, rows, cols, reinterpret_cast<const std::byte*>(w.data())},
                      x.data(), tokens, y.data());
}

// The same output by matrix products over chunks of `size` tokens (arXiv 2405.21060, section 6),
// for one group of heads with one A each.
class MatrixForm {
 public:
  MatrixForm(const Layer& layer, int64_t size)
      : layer_(layer),
        size_(size),
        heads_(layer.scan.heads),
        width_(layer.scan.head_dim),
        states_(layer.scan.states) {}

  Floats Run(Backend& backend) {
    Floats out(layer_.x.size());
    state_.assign(Size(heads_), Floats(Size(width_ * states_), 0.0f));
    for (int64_t first = 0; first < layer_.tokens; first += size_) {
      const int64_t n = std::min(size_, layer_.tokens - first);
      b_.assign(layer_.b.begin() + first * states_, layer_.b.begin() + (first + n) * states_);
      c_.assign(layer_.c.begin() + first * states_, layer_.c.begin() + (first + n) * states_);
      b_columns_.resize(b_.size());
      for (int64_t t = 0; t < n; ++t)
        for (int64_t i = 0; i < states_; ++i)
          b_columns_[Size(i * n + t)] = b_[Size(t * states_ + i)];
      Multiply(backend, b_, n, states_, c_, n, products_);  // [t][s] = c_t . b_s, for all heads
      for (int64_t h = 0; h < heads_; ++h) Head(backend, h, first, n, out);
    }
    return out;
  }

 private:
  void Head(Backend& backend, int64_t h, int64_t first, int64_t n, Floats& out) {
    const int64_t pitch = heads_ * width_;
    Floats dt(Size(n)), sum(Size(n));  // sum[t]: log of what is left after t of what came before
    for (int64_t t = 0; t < n; ++t) {
      const float raw = layer_.dt[Size((first + t) * heads_ + h)] + layer_.bias[Size(h)];
      dt[Size(t)] = std::log1p(std::exp(raw));
      sum[Size(t)] = (t > 0 ? sum[Size(t - 1)] : 0) + dt[Size(t)] * layer_.a[Size(h)];
    }
    Floats shares(Size(n * n), 0.0f), columns(Size(width_ * n)), left(Size(width_ * n)),
        scaled(Size(n * states_));
    for (int64_t t = 0; t < n; ++t) {
      const float decay = std::exp(sum[Size(t)]), rest = std::exp(sum[Size(n - 1)] - sum[Size(t)]);
      for (int64_t s = 0; s <= t; ++s)
        shares[Size(t * n + s)] =
            std::exp(sum[Size(t)] - sum[Size(s)]) * dt[Size(s)] * products_[Size(t * n + s)];
      for (int64_t i = 0; i < states_; ++i)
        scaled[Size(t * states_ + i)] = decay * c_[Size(t * states_ + i)];
      for (int64_t p = 0; p < width_; ++p) {
        const float x = layer_.x[Size((first + t) * pitch + h * width_ + p)];
        columns[Size(p * n + t)] = x;
        left[Size(p * n + t)] = rest * dt[Size(t)] * x;
      }
    }
    Floats within, before, added;
    Floats& state = state_[Size(h)];
    Multiply(backend, columns, width_, n, shares, n, within);
    Multiply(backend, state, width_, states_, scaled, n, before);
    Multiply(backend, b_columns_, states_, n, left, width_, added);
    for (int64_t t = 0; t < n; ++t)
      for (int64_t p = 0; p < width_; ++p)
        out[Size((first + t) * pitch + h * width_ + p)] =
            within[Size(t * width_ + p)] + before[Size(t * width_ + p)] +
            layer_.d[Size(h)] * columns[Size(p * n + t)];
    const float kept = std::exp(sum[Size(n - 1)]);
    for (size_t i = 0; i < state.size(); ++i) state[i] = kept * state[i] + added[i];
  }

  const Layer& layer_;
  const int64_t size_, heads_, width_, states_;
  std::vector<Floats> state_;  // [heads], each [head_dim][states]
  Floats b_, c_, b_columns_, products_;
};

double Microseconds(double seconds, int64_t tokens) {
  return seconds * 1e6 / static_cast<double>(tokens);
}

}  // namespace

ScanCommand::ScanCommand(CLI::App& app)
    : command_(app.add_subcommand(
          "scan",
          "Mamba's selective scan in layers of the 130M models on one thread: token by token "
          "as served, and in the matrix form of SSD")) {
  command_->add_option("--tokens", tokens_, "of a prompt")->capture_default_str();
  command_->add_option("--chunk", chunk_, "tokens of a chunk of the matrix form")
      ->capture_default_str();
  command_->add_option("--seconds", seconds_, "spent on each figure")->capture_default_str();
  command_->add_flag("--json", json_, "print one JSON object on stdout");
}

int ScanCommand::Run() const {
  ThreadPool pool(1);
  const auto backend = MakeCpuBackend(pool);
  nlohmann::json report;
  Layer first(1536, 1, 16, tokens_), second(24, 64, 128, tokens_);
  Floats out(first.x.size());
  for (Layer* layer : {&first, &second}) {
    const RecurrentSequence whole[] = {{0, layer->tokens, -1, 0}};
    const double seconds = MeanSeconds(seconds_, [&] {
      backend->SelectiveScan(layer->scan, whole, layer->state.data(), layer->in, out.data());
    });
    report[layer == &first ? "mamba1_us_per_token" : "mamba2_us_per_token"] =
        Microseconds(seconds, tokens_);
  }
  MatrixForm matrix(second, chunk_);
  Floats other = matrix.Run(*backend);
  const double seconds = MeanSeconds(seconds_, [&] { other = matrix.Run(*backend); });
  report["mamba2_matrix_us_per_token"] = Microseconds(seconds, tokens_);
  float most = 0, difference = 0;
  for (size_t i = 0; i < other.size(); ++i) {
    most = std::max(most, std::abs(out[i]));
    difference = std::max(difference, std::abs(out[i] - other[i]));
  }
  report["matrix_difference"] = difference / most;
  if (json_) {
    std::printf("%s\n", report.dump().c_str());
    return 0;
  }
  std::printf(
      "microseconds per token and layer: Mamba-1 %.1f, Mamba-2 %.1f, in chunks of %d %.1f "
      "(largest difference %.1e of the largest output)\n",
      report["mamba1_us_per_token"].get<double>(), report["mamba2_us_per_token"].get<double>(),
      static_cast<int>(chunk_), report["mamba2_matrix_us_per_token"].get<double>(),
      difference / most);
  return 0;
}

}  // namespace lift::bench
