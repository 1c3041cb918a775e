// Weights bound by canonical name: from a checkpoint (one variant, "full") or from a lifted file
// (all its variants).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/format/lifted_file.h"
#include "server/model/checkpoint/checkpoint.h"
#include "server/model/model_config.h"

namespace lift {

// A 2-D weight. A token of a variant with `full` set (or any token if `lifted` is absent) uses
// `dense`.
struct Matrix {
  std::string name;
  int64_t rows = 0, cols = 0;
  std::optional<DenseMatrixView> dense;
  // The lifted form: strips of rows, top to bottom (most matrices are one strip); empty = none.
  std::span<const LiftedMatrix> lifted;
  // The strip that holds `row`, and the row's number in it.
  std::pair<const LiftedMatrix*, int64_t> StripOf(int64_t row) const {
    size_t i = 0;
    for (; row >= lifted[i].rows; ++i) row -= lifted[i].rows;
    return {&lifted[i], row};
  }
};

// Immutable after loading except for OverrideDense; thread-safe for readers.
class Weights {
 public:
  static absl::StatusOr<std::shared_ptr<Weights>> FromCheckpoint(
      std::shared_ptr<const Checkpoint> checkpoint);
  static absl::StatusOr<std::shared_ptr<Weights>> FromLiftedFile(
      std::shared_ptr<const LiftedFile> file);
  // Lifted file, GGUF or Hugging Face folder, told apart by content.
  static absl::StatusOr<std::shared_ptr<Weights>> Open(const std::string& path) {
    return Open(path, LiftedFile::OpenOptions{});
  }
  static absl::StatusOr<std::shared_ptr<Weights>> Open(const std::string& path,
                                                       LiftedFile::OpenOptions options);
  ~Weights();

  const ModelConfig& config() const;
  std::span<const LiftedVariant> variants()
      const;                                     // a checkpoint has exactly one: "full", lambda 1
  int FindVariant(std::string_view name) const;  // -1 if absent
  const LiftedFile* file() const;                // null for checkpoints
  const Checkpoint* checkpoint() const;          // null for lifted files
  absl::StatusOr<const Matrix*> GetMatrix(const std::string& name) const;
  // f32 copy of a norm or bias; empty span if the model has none by that name.
  std::span<const float> GetVector(const std::string& name) const;

  // What the lifted tensors of one input share (model_layout.h names them); null for checkpoints.
  const LiftSite* FindSite(const std::string& name) const;

  // Calibration: use `values` [rows, cols] f32 (borrowed) for this matrix instead of its stored
  // form; nullptr restores it.
  void OverrideDense(const std::string& name, const float* values);

  // Bytes resident for `variant` alone, and for all variants together (the planes' longest prefix
  // counted once).
  uint64_t VariantBytes(int variant) const;
  uint64_t ResidentBytes() const;

  // Checks the checksums of all that `variants` read, for a file opened without verify_planes; on
  // the threads of `pool` if it is given. INVALID_ARGUMENT naming what is damaged, CANCELLED once
  // `stop` turns true. Without effect for checkpoints.
  absl::Status Verify(std::span<const int> variants, ThreadPool* pool,
                      const std::atomic<bool>* stop) const;

  // Backend::Adopt of everything that steps of these variants read (empty: of all): vectors,
  // tables, the planes as far as the finest goes, the source if one is full. Host memory of a file
  // may leave afterwards.
  absl::Status Adopt(Backend& backend, std::span<const int> variants) const;
  // Ends it; before the weights go, since other memory may lie at their addresses then.
  void Abandon(Backend& backend) const;

  // StepModel::Retain: planes and source no variant of these reads leave memory. Reading them later
  // stays correct and pages them in again. Without effect for checkpoints.
  // On a backend with memory of its own, it is that memory.
  void Retain(std::span<const int> variants, Backend& backend) const;

 private:
  struct Impl;
  explicit Weights(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lift
