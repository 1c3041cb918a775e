// One weight matrix -> planes: rotation, row scales, a chain of stages, each the encoding of what
// the earlier ones left.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "calibration/encoder.h"
#include "kernels/backend.h"
#include "kernels/format/lifted_file.h"

namespace lift {

struct StageSpec {
  LiftCode code;
  double damping = 0.3;  // of the Hessian, in units of its mean diagonal
  double scale = 1.0;  // table scale on top of the residual's deviation; > 1 trims the tail a later
                       // stage would inherit
  // Circular rows are searched from their middle on. The errors are largest where a search ends, so
  // stages that follow each other begin apart.
  bool from_middle = false;
};

// Stages of the given sizes in bits, first to last, with the codes, dampings and scales that real
// layers were found to want.
std::vector<StageSpec> MakeStages(const std::vector<int>& sizes);

// The metrics of one layer input as the stages use them; shared by the tensors that read
// the input.
class SiteMetric {
 public:
  // hessian: Hessian::Rotated, [padded, padded]. keep: a metric is kept once made, which takes as
  // much memory as the hessian for every stage; else only the last one is, for an input of one
  // tensor. Backend and pool must outlive it.
  SiteMetric(std::vector<float> hessian, int64_t padded, int64_t live, int64_t seam, bool keep,
             Backend& backend, ThreadPool& pool);
  // Made when first asked for; valid until the next call.
  const EncoderMetric& of(const StageSpec& stage);
  const std::vector<float>& hessian() const { return hessian_; }
  int64_t padded() const { return padded_; }
  int64_t live() const { return live_; }

 private:
  std::vector<float> hessian_;
  int64_t padded_, live_, seam_;
  bool keep_;
  Backend& backend_;
  ThreadPool& pool_;
  using Key = std::pair<double, int64_t>;  // damping, first column
  Key KeyOf(const StageSpec& stage) const;
  std::map<Key, EncoderMetric> metrics_;
};

struct LiftedStageBits {
  std::vector<uint8_t> planes;  // the file's plane layout
  float gain = 0;
};

struct LiftedTensorBits {
  std::string name;
  int64_t rows = 0, cols = 0, padded = 0;
  RotationSpec rotation;
  std::vector<uint16_t> row_scale;  // binary16
  std::vector<LiftedStageBits> stages;
  double energy = 0;          // Hessian-weighted, of the whole tensor
  std::vector<double> error;  // [stages + 1]: Hessian-weighted error over the tensor's energy after
                              // j stages; error[0] = 1
};

// A matrix of a checkpoint as float32, [rows, cols].
std::vector<float> DenseValues(const DenseMatrixView& view);

// w: [rows, cols] in the model's own basis.
LiftedTensorBits LiftTensor(const std::string& name, std::vector<float> w, int64_t rows,
                            int64_t cols, const Rotation& rotation, RotationSpec spec,
                            SiteMetric& metric, const std::vector<StageSpec>& chain,
                            const EncoderOptions& options, Backend& backend, ThreadPool& pool);

// The reconstruction after `stages` stages, in the model's own basis: out [rows, cols].
void ReconstructTensor(const LiftedTensorBits& tensor, const std::vector<StageSpec>& chain,
                       size_t stages, const Rotation& rotation, ThreadPool& pool, float* out);

// Bits of one stage [rows, padded] to the file's plane layout and back.
std::vector<uint8_t> PackPlanes(const std::vector<uint8_t>& bits, int64_t rows, int64_t padded,
                                int stored);
std::vector<uint8_t> UnpackPlanes(const std::vector<uint8_t>& planes, int64_t rows, int64_t padded,
                                  int stored);

}  // namespace lift
