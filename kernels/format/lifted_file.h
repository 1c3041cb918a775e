// The lifted file, version 1: every precision variant of one model as prefixes of the same bit
// planes. The byte diagram is in README.md beside this file.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/mapped_file.h"
#include "kernels/base/status.h"
#include "kernels/base/thread_pool.h"

namespace lift {

inline constexpr int kTileRows = 16;  // rows of one plane tile
inline constexpr int kTileColumns =
    32;  // columns of one plane tile: bit t of a row's 32-bit word is column 32 * block + t
inline constexpr int kTileBytes = 64;
inline constexpr int kMaxStages = 16;
inline constexpr int kMaxStreams = 8;                      // stored + derived signs a step
inline constexpr int64_t kMaxRowSigns = int64_t{1} << 20;  // padded columns * streams of a stage

inline int64_t PaddedRows(int64_t rows) { return (rows + kTileRows - 1) / kTileRows * kTileRows; }
inline int64_t PaddedColumns(int64_t cols) {
  return (cols + kTileColumns - 1) / kTileColumns * kTileColumns;
}

// A convolutional lifting code. The reconstruction of column t (of a padded row of n columns, all
// indices circular mod n) is
//   v_t = sum_{m < steps} sum_{r < streams} taps[m * streams + r] * b[t - m][r],     b in {-1, +1},
// where streams = stored + derived, the first `stored` signs of a step are read from planes, and
// derived sign k is the parity (XOR) of the stored bits named by masks[k]: mask bit (s * streams +
// r) names stored stream r, s steps back. In plane bits 1 means +1. XOR is of plane bits. Masks
// name stored streams only and at most 7 steps back.
struct LiftCode {
  std::string name;  // "2+1p" = 2 stored, 1 parity stream
  int stored = 0, derived = 0, steps = 0;
  std::vector<uint64_t> masks;  // [derived]
  std::vector<float> taps;      // [steps * streams], unit-variance source
  int streams() const { return stored + derived; }
};

// One stage of one tensor: reconstruction = row_scale[o] * gain * code(bits). Stage j adds to
// stages 0..j-1.
struct LiftStage {
  int code = 0;  // index into LiftedFile::codes()
  float gain = 0;
  uint64_t offset = 0;  // of the first plane tile, from the start of the PLANES section
  uint64_t bytes = 0;   // padded_rows / 16 * padded_cols / 32 * stored * 64
};
// Plane layout of a stage: [row tile][column block][stored stream] tiles of 64 bytes; a tile is 16
// little-endian 32-bit words, word i = row 16 * tile + i. Rows past `rows` and columns past `cols`
// are padding: rows are stored as zeros, padding columns hold free bits that the search chose (they
// are inputs of neighbouring windows; their activation is zero).

// How inputs are rotated before lifting: x' = R x with R = (C_m (x) WHT_p) diag(signs), dimension =
// p * m, p the largest power of two dividing it, C_m the orthogonal m x m Hartley matrix cas(2 pi i
// j / m) / sqrt(m). x' index = i * p + k. Signs come from `seed` (kernels/format/rotation.h).
// Absent (identity) when `enabled` is false.
struct RotationSpec {
  bool enabled = false;
  uint64_t seed = 0;
};

struct LiftedTensor {
  std::string name;  // canonical (Hugging Face) name, e.g. model.layers.0.self_attn.q_proj.weight
  int64_t rows = 0, cols = 0;
  RotationSpec rotation;  // of the input (column) side; equal for tensors that share an input
  std::vector<LiftStage> stages;
  std::span<const uint16_t> row_scale;  // [rows] binary16, borrowed from the file
  std::optional<DenseMatrixView>
      source;  // the source tensor, bit-exact, if a variant asked for lambda = 1
  int64_t padded_rows() const { return PaddedRows(rows); }
  int64_t padded_cols() const { return PaddedColumns(cols); }
};

// One entry of the global plane order: a whole stage of a tensor. The PLANES section stores units
// in this order, so a variant is a prefix of the section's bytes.
struct PlaneUnit {
  int tensor = 0, stage = 0;
};

struct LiftedVariant {
  std::string name;            // "q3.0"; "full" for the source
  double lambda = 0;           // log16 of plane bits per quantized weight; 1 for the source
  double bits_per_weight = 0;  // plane bits per quantized weight
  bool full = false;           // reads the stored source tensors instead of planes
  uint64_t plane_bytes =
      0;  // prefix of PLANES; the cut inside the last unit falls on a whole row tile
  uint64_t budget_bytes = 0;        // what the user asked for, 0 if none
  uint64_t bytes = 0;               // all a deployment of this variant alone must hold
  double kl = -1, perplexity = -1;  // measured at calibration on held-out text; -1 = not measured
  int wide_stages =
      0;  // leading stages whose lifted activations are quantized to 15 bits instead of 8
};

// A small f32 tensor kept as it is: norms, biases.
struct LiftedVector {
  std::string name;
  std::span<const float> values;
};

// Immutable after Open; thread-safe. Borrowed views live as long as the file object.
class LiftedFile {
 public:
  struct OpenOptions {
    bool verify_planes = true;  // check the CRC of PLANES and SOURCE too (reads every byte)
    // Further variants, one for each budget in bytes (everything included), named "b" and the
    // budget in MB ("b61.5"). INVALID_ARGUMENT for a budget below the first stage of every tensor.
    std::vector<uint64_t> cuts = {};
  };
  // INVALID_ARGUMENT with one sentence for anything wrong: magic, version, truncated, checksum,
  // overlap, overflow, bad code.
  static absl::StatusOr<std::shared_ptr<const LiftedFile>> Open(const std::string& path,
                                                                OpenOptions options);
  static absl::StatusOr<std::shared_ptr<const LiftedFile>> Open(const std::string& path) {
    return Open(path, OpenOptions{});
  }
  // The same from memory (copied), for tests and fuzzing.
  static absl::StatusOr<std::shared_ptr<const LiftedFile>> FromBytes(
      std::span<const std::byte> bytes, OpenOptions options);
  ~LiftedFile();

  const std::string& path() const;
  const std::string& model_config_json() const;  // server/model parses it
  const std::string& tokenizer_json() const;     // server/tokenizer parses it (a TokenizerSpec)
  const std::string& source_sha256() const;      // of the checkpoint it was made from
  const std::string& weights_sha256() const;     // identity of this file's weights
  const std::string& report_json() const;        // free-form calibration report
  const std::string& router_json() const;        // trained router (router/predictor.h); "" = none
  std::span<const LiftCode> codes() const;
  std::span<const LiftedTensor> tensors() const;
  std::span<const LiftedVector> vectors() const;
  std::span<const PlaneUnit> plane_order() const;
  std::span<const LiftedVariant> variants() const;  // ascending plane_bytes; "full" last
  std::span<const std::byte> planes() const;        // the mapped PLANES section
  uint64_t fixed_bytes()
      const;  // vectors + row scales + tables: what every variant holds besides planes
  const LiftedTensor* FindTensor(std::string_view name) const;
  const LiftedVector* FindVector(std::string_view name) const;
  // rows of `tensor` for which stage j is inside a prefix of plane_bytes: [stages], non-increasing
  // multiples of 16 capped at rows (the cut unit is partial).
  std::vector<int64_t> StageRows(int tensor, uint64_t plane_bytes) const;
  // plane_bytes rounded down to a whole row tile of the unit it falls into, at most the whole
  // section.
  uint64_t CutPlanes(uint64_t plane_bytes) const;
  // Gives the memory behind a part of planes() or of a source tensor back to the system, or reads
  // it in; without effect where the file is not mapped. See MappedFile.
  void Release(std::span<const std::byte> part) const;
  void Prefetch(std::span<const std::byte> part) const;
  // Writes this file anew, with another router document ("" = none), at `path`, which may be its
  // own. Weights and their identity stay. FAILED_PRECONDITION for a file opened with cuts.
  absl::Status SaveWithRouter(const std::string& path, std::string router_json) const;
  std::span<const std::byte> source() const;  // the mapped SOURCE section; empty if there is none
  // Checks the checksums of the units that begin inside the prefix: for files opened without
  // verify_planes.
  absl::Status VerifyPlanes(uint64_t prefix_bytes) const {
    return VerifyPlanes(prefix_bytes, nullptr, nullptr);
  }
  // The same on the threads of `pool`, if it is given; CANCELLED once `stop` turns true.
  absl::Status VerifyPlanes(uint64_t prefix_bytes, ThreadPool* pool,
                            const std::atomic<bool>* stop) const;
  // The checksum of the SOURCE section.
  absl::Status VerifySource(ThreadPool* pool, const std::atomic<bool>* stop) const;

 private:
  struct Impl;
  static absl::StatusOr<std::shared_ptr<const LiftedFile>> Load(std::unique_ptr<Impl> impl,
                                                                const OpenOptions& options);
  explicit LiftedFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// How many leading stages of a variant of so many bits per weight need finer lifted activations, so
// that their rounding stays below the planes' own error.
int WideStages(double bits_per_weight);

// Budgets in MB (10^6 bytes) as people write them -> OpenOptions::cuts.
std::vector<uint64_t> BytesOfMegabytes(std::span<const double> megabytes);

// Name of the k-th strip of rows of a tensor that is stored in several (an embedding, whose
// frequent rows deserve more planes than its rare ones).
std::string StripName(std::string_view tensor, int k);

// True if these first bytes of a file are a lifted file's magic.
bool LooksLikeLiftedFile(std::span<const std::byte> beginning);

// Builds a lifted file. Not thread-safe. Usage: set metadata, AddVector/AddTensor, SetPlaneOrder,
// SetVariants, then Finish. Anything that a reader would refuse (shapes, sizes, order, names) is
// refused by Finish with INVALID_ARGUMENT.
class LiftedFileWriter {
 public:
  LiftedFileWriter();
  ~LiftedFileWriter();
  void SetModelConfig(std::string json);
  void SetTokenizer(std::string json);
  void SetSourceSha256(std::string hex);
  void SetReport(std::string json);
  int AddCode(LiftCode code);
  void AddVector(std::string name, std::vector<float> values);
  struct StageData {
    StageData(int of_code, float with_gain, std::vector<uint8_t> values);
    // Borrows the planes: they stay valid while `held` lives.
    StageData(int of_code, float with_gain, std::span<const uint8_t> values,
              std::shared_ptr<const void> held)
        : code(of_code), gain(with_gain), planes(values), owner(std::move(held)) {}
    int code;
    float gain;
    std::span<const uint8_t> planes;  // in plane layout, LiftStage::bytes long
    std::shared_ptr<const void> owner;
  };
  // Returns the tensor's index. The bytes of `source`, if it is given, must outlive the last
  // Finish.
  int AddTensor(std::string name, int64_t rows, int64_t cols, RotationSpec rotation,
                std::vector<uint16_t> row_scale, std::vector<StageData> stages,
                std::optional<DenseMatrixView> source = std::nullopt);
  // Order must name each stage once, stage j of a tensor after stage j - 1. Of a variant the caller
  // sets name, full, plane_bytes (cut to a row tile by the writer), budget_bytes, wide_stages, kl
  // and perplexity; the writer derives lambda, bits_per_weight and bytes.
  void SetPlaneOrder(std::vector<PlaneUnit> order);
  void SetVariants(std::vector<LiftedVariant> variants);
  // Writes path + ".tmp", syncs and renames. INTERNAL / RESOURCE_EXHAUSTED on I/O errors, naming
  // the path.
  absl::Status Finish(const std::string& path);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Bytes a variant that cuts the planes at `plane_bytes` holds: fixed + planes, rounded down to a
// whole row tile of the cut unit.
uint64_t CutToRowTile(const LiftedFile& file, uint64_t plane_bytes);

}  // namespace lift
