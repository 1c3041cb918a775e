#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "kernels/reference/reference.h"

namespace lift::reference {
namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon();

void Append(Expected& out, double value, double tolerance) {
  out.values.push_back(value);
  out.tolerance.push_back(tolerance);
}

}  // namespace

std::string Mismatch(std::span<const float> got, const Expected& want) {
  if (got.size() != want.values.size()) {
    return absl::StrCat("got ", got.size(), " elements, want ", want.values.size());
  }
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - want.values[i]);
    if (!(error <= want.tolerance[i])) {
      return absl::StrCat("element ", i, ": got ", got[i], ", want ", want.values[i],
                          ", tolerance ", want.tolerance[i]);
    }
  }
  return "";
}

Expected RmsNorm(std::span<const float> x, std::span<const float> gain, double eps,
                 int64_t tokens) {
  Expected out;
  const size_t dim = gain.size();
  for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
    double squares = 0;
    for (size_t i = 0; i < dim; ++i) squares += std::pow(x[t * dim + i], 2);
    const double norm = 1 / std::sqrt(squares / static_cast<double>(dim) + eps);
    for (size_t i = 0; i < dim; ++i) {
      const double y = x[t * dim + i] * norm * gain[i];
      Append(out, y, (static_cast<double>(dim) / 16 + 8) * kEps * std::abs(y) + 1e-37);
    }
  }
  return out;
}

Expected SwiGlu(std::span<const float> gate, std::span<const float> up) {
  Expected out;
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i], y = g / (1 + std::exp(-g)) * up[i];
    // exp(-g) beyond the float range makes the kernel's result an exact zero.
    Append(out, y, 8 * kEps * std::abs(y) + std::abs(g * up[i]) * 1e-37 + 1e-36);
  }
  return out;
}

Expected LayerNorm(std::span<const float> x, std::span<const float> gain,
                   std::span<const float> bias, double eps, int64_t tokens) {
  const auto dim = static_cast<int64_t>(gain.size());
  Expected out;
  for (int64_t t = 0; t < tokens; ++t) {
    const std::span<const float> row =
        x.subspan(static_cast<size_t>(t * dim), static_cast<size_t>(dim));
    double mean = 0, variance = 0, largest = 0;
    for (const float v : row) mean += static_cast<double>(v) / static_cast<double>(dim);
    for (const float v : row) {
      variance += (v - mean) * (v - mean) / static_cast<double>(dim);
      largest = std::max(largest, std::abs(static_cast<double>(v)));
    }
    const double inverse = 1 / std::sqrt(variance + eps);
    for (size_t i = 0; i < row.size(); ++i) {
      const double y = (row[i] - mean) * inverse * gain[i];
      const double spread = largest * inverse * std::abs(static_cast<double>(gain[i]));
      Append(out, y + bias[i],
             static_cast<double>(dim + 8) * kEps * (std::abs(y) + spread) +
                 4 * kEps * std::abs(static_cast<double>(bias[i])) + 1e-30);
    }
  }
  return out;
}

Expected Gelu(std::span<const float> x, bool tanh_form) {
  Expected out;
  for (const float value : x) {
    const double v = value;
    const double share =
        tanh_form
            ? 0.5 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * v * v * v)))
            : 0.5 * (1 + std::erf(v / std::numbers::sqrt2));
    Append(out, v * share, std::abs(v) * 5e-7 + 1e-30);
  }
  return out;
}

Expected Rope(std::span<const float> x, int64_t tokens, int64_t heads, int64_t head_dim,
              int64_t rotary_dim, std::span<const float> cos_sin, bool interleaved) {
  Expected out;
  for (int64_t i = 0; i < tokens * heads * head_dim; ++i) {
    const int64_t d = i % head_dim, token = i / head_dim / heads, half = rotary_dim / 2;
    const int64_t head = i - d;
    if (d >= rotary_dim) {
      Append(out, x[static_cast<size_t>(i)], 0);
      continue;
    }
    const int64_t pair = interleaved ? d / 2 : d % half;
    const bool second = interleaved ? d % 2 == 1 : d >= half;
    const double a = x[static_cast<size_t>(head + (interleaved ? 2 * pair : pair))];
    const double b = x[static_cast<size_t>(head + (interleaved ? 2 * pair + 1 : pair + half))];
    const double c = cos_sin[static_cast<size_t>(token * rotary_dim + pair)];
    const double s = cos_sin[static_cast<size_t>(token * rotary_dim + half + pair)];
    Append(out, second ? a * s + b * c : a * c - b * s,
           4 * kEps * (std::abs(a) + std::abs(b)) + 1e-37);
  }
  return out;
}

Expected DenseMatmul(std::span<const float> weights, int64_t rows, int64_t cols,
                     std::span<const float> x, int64_t tokens) {
  Expected out;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0, magnitude = 0;
      for (int64_t c = 0; c < cols; ++c) {
        const double term = static_cast<double>(weights[static_cast<size_t>(r * cols + c)]) *
                            x[static_cast<size_t>(t * cols + c)];
        sum += term;
        magnitude += std::abs(term);
      }
      Append(out, sum, static_cast<double>(cols) / 2 * kEps * magnitude + 1e-37);
    }
  }
  return out;
}

namespace {

// One query row against one history: scores, softmax, weighted values.
void AttendRow(const History& history, const AttentionShape& shape, const float* q, int64_t head,
               int64_t keys, std::span<Expected*> out) {
  const int64_t kv = head / (shape.heads / shape.kv_heads), dim = shape.head_dim;
  const auto at = [&](const std::vector<float>& values, int64_t key, int64_t d) {
    return static_cast<double>(values[static_cast<size_t>((key * shape.kv_heads + kv) * dim + d)]);
  };
  std::vector<double> weights(static_cast<size_t>(keys));
  double top = -1e300, score_size = 0, total = 0;
  const int64_t first = shape.window > 0 ? std::max<int64_t>(0, keys - shape.window) : 0;
  for (int64_t key = 0; key < keys; ++key) {
    if (key < first) {
      weights[static_cast<size_t>(key)] = -std::numeric_limits<double>::infinity();
      continue;
    }
    double score = 0, size = 0;
    for (int64_t d = 0; d < dim; ++d) {
      score += q[d] * at(history.k, key, d);
      size += std::abs(q[d] * at(history.k, key, d));
    }
    weights[static_cast<size_t>(key)] = score * shape.scale;
    top = std::max(top, score * shape.scale);
    score_size = std::max(score_size, size * shape.scale);
  }
  for (double& w : weights) total += w = std::exp(w - top);
  // A score is off by eps * dim / 2 * its size, and so is every weight, relatively.
  const double relative =
      kEps * (static_cast<double>(dim) * score_size + static_cast<double>(keys) / 4 + 32);
  for (int64_t d = 0; d < dim; ++d) {
    double sum = 0, size = 0;
    for (int64_t key = 0; key < keys; ++key) {
      const double term = weights[static_cast<size_t>(key)] / total * at(history.v, key, d);
      sum += term;
      size += std::abs(term);
    }
    Append(*out[0], sum, relative * size + 1e-30);
  }
}

}  // namespace

Expected Attention(std::span<const History> histories, const AttentionShape& shape,
                   std::span<const AttentionSequence> sequences, std::span<const float> q) {
  Expected out;
  Expected* sink[1] = {&out};
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (int64_t t = 0; t < sequences[s].tokens; ++t) {
      for (int64_t head = 0; head < shape.heads; ++head) {
        const int64_t row = (sequences[s].first_row + t) * shape.heads + head;
        AttendRow(histories[s], shape, q.data() + row * shape.head_dim, head,
                  sequences[s].position + t + 1, sink);
      }
    }
  }
  return out;
}

}  // namespace lift::reference
