// Double-precision oracles of the backend's ops, written from the definitions and sharing no code
// with any kernel. Linked by tests only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace lift::reference {

// A result and, for each element, the largest error an exact kernel may show.
struct Expected {
  std::vector<double> values;
  std::vector<double> tolerance;
};

// Empty if every element is within its tolerance; else one sentence naming the first that is not.
// An element passes only if |got - want| <= tolerance holds, so NaN never passes.
std::string Mismatch(std::span<const float> got, const Expected& want);

Expected RmsNorm(std::span<const float> x, std::span<const float> gain, double eps, int64_t tokens);
Expected LayerNorm(std::span<const float> x, std::span<const float> gain,
                   std::span<const float> bias, double eps, int64_t tokens);
Expected Gelu(std::span<const float> x, bool tanh_form);
Expected SwiGlu(std::span<const float> gate, std::span<const float> up);
Expected Rope(std::span<const float> x, int64_t tokens, int64_t heads, int64_t head_dim,
              int64_t rotary_dim, std::span<const float> cos_sin, bool interleaved);
// weights: [rows, cols] already decoded.
Expected DenseMatmul(std::span<const float> weights, int64_t rows, int64_t cols,
                     std::span<const float> x, int64_t tokens);
// k, v: whole history of each sequence, [position + tokens, kv_heads, head_dim].
struct History {
  std::vector<float> k, v;
};
Expected Attention(std::span<const History> histories, const AttentionShape& shape,
                   std::span<const AttentionSequence> sequences, std::span<const float> q);

// Convolution and scan of one sequence of `tokens` from empty state, see ConvLayer and ScanLayer.
Expected CausalConv(const ConvLayer& layer, std::span<const float> x, int64_t pitch,
                    int64_t tokens);
Expected SelectiveScan(const ScanLayer& layer, const ScanInputs& in, int64_t tokens);

// The matrix R of a rotation, [n, n] row-major.
std::vector<double> RotationMatrix(const RotationSpec& spec, int64_t n);
// Row `row` of a lifted tensor at a variant, in the rotated basis: [cols].
std::vector<double> RotatedRow(const LiftedMatrix& w, int64_t row, int variant);
// The same in the model's basis; rotation: RotationMatrix(spec, cols).
Expected LiftedRow(const LiftedMatrix& w, std::span<const double> rotation, int64_t row,
                   int variant);
// Quantizes the lifted activations as LiftedActivations declares. Tolerance: rounding, and two
// activations that a kernel in single precision may round to the other neighbour.
Expected LiftedMatmul(const LiftedMatrix& w, const LiftSite& site, const RotationSpec& spec,
                      std::span<const float> x, std::span<const uint8_t> variants);

// LiftedMatmul of rows with kPrefillRow, all at one variant. Tolerance: the rounding of the decoded
// weights as independent errors.
Expected PrefillMatmul(const LiftedMatrix& w, const LiftSite& site, const RotationSpec& spec,
                       std::span<const float> x, int64_t tokens, int variant);

}  // namespace lift::reference
