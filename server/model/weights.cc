#include "server/model/weights.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "server/model/model_layout.h"

namespace lift {
namespace {

absl::Status Missing(const std::string& name) {
  return absl::InvalidArgumentError(
      absl::StrCat("the model lacks the tensor '", name, "' that its configuration asks for"));
}

absl::Status WrongShape(const std::string& name, int64_t rows, int64_t cols, int64_t want_rows,
                        int64_t want_cols) {
  return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' is ", rows, " x ", cols,
                                                 ", the configuration asks for ", want_rows, " x ",
                                                 want_cols));
}

}  // namespace

struct Weights::Impl {
  ModelConfig config;
  std::vector<LiftedVariant> variants;
  std::shared_ptr<const LiftedFile> file;
  std::shared_ptr<const Checkpoint> checkpoint;
  std::map<std::string, Matrix> matrices;
  std::map<std::string, Matrix>
      overridden;  // stored forms of the matrices that OverrideDense replaced
  std::map<std::string, std::vector<float>> vectors;
  std::map<std::string, std::vector<LiftedMatrix>> lifted;
  std::map<std::pair<uint64_t, int64_t>, std::unique_ptr<Rotation>> rotations;
  std::map<std::string, LiftSite> sites;

  const Rotation* FindRotation(RotationSpec spec, int64_t dimension);
  LiftedMatrix Strip(const LiftedTensor& tensor, int64_t pitch);
  absl::Status BindLifted(const layout::MatrixSpec& spec);
  absl::Status BindSite(const layout::SiteSpec& spec);
  LiftedVariant DenseVariant() const;
  std::pair<uint64_t, bool> ReadBy(std::span<const int> read) const;
  std::vector<std::span<const std::byte>> Spans(std::span<const int> kept) const;
};

// --- from a lifted file ---

const Rotation* Weights::Impl::FindRotation(RotationSpec spec, int64_t dimension) {
  // A disabled rotation is kept under the negative dimension, so that it never meets an enabled one
  // of the same seed.
  auto& slot = rotations[{spec.seed, spec.enabled ? dimension : -dimension}];
  if (!slot) slot = std::make_unique<Rotation>(spec, dimension);
  return slot.get();
}

LiftedMatrix Weights::Impl::Strip(const LiftedTensor& tensor, int64_t pitch) {
  LiftedMatrix matrix;
  matrix.rows = tensor.rows, matrix.cols = tensor.cols, matrix.pitch = pitch;
  matrix.row_scale = tensor.row_scale.data();
  matrix.rotation = FindRotation(tensor.rotation, tensor.cols);
  for (const LiftStage& stage : tensor.stages) {
    matrix.stages.push_back({&file->codes()[static_cast<size_t>(stage.code)], 0, stage.gain,
                             file->planes().data() + stage.offset});
  }
  const int index = static_cast<int>(&tensor - file->tensors().data());
  for (const LiftedVariant& variant : variants) {
    for (int64_t rows : file->StageRows(index, variant.full ? 0 : variant.plane_bytes)) {
      matrix.stage_rows.push_back(rows);
    }
  }
  return matrix;
}

// A matrix is one tensor of its name, or strips of rows named StripName(name, 0), 1, ...
absl::Status Weights::Impl::BindLifted(const layout::MatrixSpec& spec) {
  std::vector<const LiftedTensor*> parts;
  if (const LiftedTensor* whole = file->FindTensor(spec.name)) parts.push_back(whole);
  int64_t rows = parts.empty() ? 0 : parts[0]->rows;
  for (int k = 0; parts.size() == static_cast<size_t>(k) && rows < spec.rows; ++k) {
    const LiftedTensor* part = file->FindTensor(StripName(spec.name, k));
    if (part == nullptr) return Missing(k == 0 ? spec.name : StripName(spec.name, k));
    parts.push_back(part);
    rows += part->rows;
  }
  Matrix& matrix = matrices[spec.name];
  matrix = {spec.name, spec.rows, spec.cols, parts[0]->source, {}};
  std::vector<LiftedMatrix>& strips = lifted[spec.name];
  for (const LiftedTensor* part : parts) {
    if (rows != spec.rows || part->cols != spec.cols)
      return WrongShape(part->name, rows, part->cols, spec.rows, spec.cols);
    strips.push_back(Strip(*part, spec.rows));
    if (part == parts[0] || (!part->source && !matrix.dense)) continue;
    // The strips' sources must lie end to end: they are read as one matrix.
    if (!part->source || !matrix.dense) {
      return absl::InvalidArgumentError(
          absl::StrCat("some strips of '", spec.name, "' have their source and some have not"));
    }
    DenseMatrixView& dense = *matrix.dense;
    if (part->source->type != dense.type || part->source->data != dense.data + dense.bytes()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the source of '", part->name, "' does not continue the strip before it"));
    }
    dense.rows += part->rows;
  }
  matrix.lifted = strips;
  return absl::OkStatus();
}

absl::Status Weights::Impl::BindSite(const layout::SiteSpec& spec) {
  LiftSite& site = sites[spec.name];
  std::vector<LiftedMatrix*> readers;
  for (const std::string& name : spec.matrices) {
    for (LiftedMatrix& matrix : lifted.at(name)) readers.push_back(&matrix);
  }
  for (LiftedMatrix* matrix : readers) {
    if (site.rotation && site.rotation != matrix->rotation) {
      return absl::InvalidArgumentError(
          absl::StrCat("the tensors that read '", spec.name, "' are rotated differently"));
    }
    site.rotation = matrix->rotation;
    site.cols = matrix->cols;
    for (LiftedMatrix::Stage& stage : matrix->stages) {
      const auto at = std::find(site.codes.begin(), site.codes.end(), stage.code);
      stage.slot = static_cast<int>(at - site.codes.begin());
      if (at == site.codes.end()) site.codes.push_back(stage.code);
    }
  }
  const size_t slots = site.codes.size();
  site.wide.assign(variants.size() * slots, 0);
  site.used.assign(variants.size() * slots, 0);
  for (size_t v = 0; v < variants.size(); ++v) {
    for (const LiftedMatrix* matrix : readers) {
      for (size_t j = 0; j < matrix->stages.size(); ++j) {
        if (matrix->rows_of(static_cast<int>(v))[j] == 0) continue;
        const size_t at = v * slots + static_cast<size_t>(matrix->stages[j].slot);
        site.used[at] = 1;
        site.wide[at] |= static_cast<int>(j) < variants[v].wide_stages;
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Weights>> Weights::FromLiftedFile(
    std::shared_ptr<const LiftedFile> file) {
  auto impl = std::make_unique<Impl>();
  LIFT_ASSIGN_OR_RETURN(impl->config, ModelConfig::FromJson(file->model_config_json()));
  LIFT_RETURN_IF_ERROR(impl->config.Validate());
  impl->file = file;
  impl->variants.assign(file->variants().begin(), file->variants().end());
  for (const auto& spec : layout::Matrices(impl->config))
    LIFT_RETURN_IF_ERROR(impl->BindLifted(spec));
  for (const auto& spec : layout::Sites(impl->config)) LIFT_RETURN_IF_ERROR(impl->BindSite(spec));
  for (const auto& spec : layout::Vectors(impl->config)) {
    const LiftedVector* vector = file->FindVector(spec.name);
    if (!vector) return Missing(spec.name);
    if (vector->values.size() != static_cast<size_t>(spec.size)) {
      return WrongShape(spec.name, 1, static_cast<int64_t>(vector->values.size()), 1, spec.size);
    }
    impl->vectors[spec.name].assign(vector->values.begin(), vector->values.end());
  }
  return std::shared_ptr<Weights>(new Weights(std::move(impl)));
}

// --- from a checkpoint ---

LiftedVariant Weights::Impl::DenseVariant() const {
  LiftedVariant variant;
  variant.name = "full";
  variant.full = true;
  variant.lambda = 1;
  double weights = 0;
  for (const auto& [name, matrix] : matrices) {
    variant.bytes += matrix.dense->bytes();
    weights += static_cast<double>(matrix.rows) * static_cast<double>(matrix.cols);
  }
  variant.bits_per_weight = 8.0 * static_cast<double>(variant.bytes) / weights;
  for (const auto& [name, values] : vectors) variant.bytes += values.size() * sizeof(float);
  return variant;
}

absl::StatusOr<std::shared_ptr<Weights>> Weights::FromCheckpoint(
    std::shared_ptr<const Checkpoint> checkpoint) {
  auto impl = std::make_unique<Impl>();
  impl->config = checkpoint->config();
  impl->checkpoint = checkpoint;
  LIFT_RETURN_IF_ERROR(impl->config.Validate());
  for (const auto& spec : layout::Matrices(impl->config)) {
    const auto view = checkpoint->Find(spec.name);
    if (!view) return Missing(spec.name);
    if (view->rows != spec.rows || view->cols != spec.cols) {
      return WrongShape(spec.name, view->rows, view->cols, spec.rows, spec.cols);
    }
    impl->matrices[spec.name] = {spec.name, spec.rows, spec.cols, view, {}};
  }
  for (const auto& spec : layout::Vectors(impl->config)) {
    const auto view = checkpoint->Find(spec.name);
    if (!view) return Missing(spec.name);
    if (view->rows * view->cols != spec.size)
      return WrongShape(spec.name, view->rows, view->cols, 1, spec.size);
    std::vector<float>& values = impl->vectors[spec.name];
    values.resize(static_cast<size_t>(spec.size));
    Dequantize(view->type, view->data, values);
  }
  impl->variants.push_back(impl->DenseVariant());
  return std::shared_ptr<Weights>(new Weights(std::move(impl)));
}

absl::StatusOr<std::shared_ptr<Weights>> Weights::Open(const std::string& path,
                                                       LiftedFile::OpenOptions options) {
  char magic[8] = {};
  if (std::filesystem::is_regular_file(path))
    std::ifstream(path, std::ios::binary).read(magic, sizeof(magic));
  if (LooksLikeLiftedFile(std::as_bytes(std::span(magic)))) {
    LIFT_ASSIGN_OR_RETURN(auto file, LiftedFile::Open(path, options));
    return FromLiftedFile(std::move(file));
  }
  LIFT_ASSIGN_OR_RETURN(auto checkpoint, Checkpoint::Open(path));
  if (!options.cuts.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("variants can be cut from a lifted file only, and '", path, "' is none"));
  }
  return FromCheckpoint(std::move(checkpoint));
}

// --- access ---

Weights::Weights(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Weights::~Weights() = default;

const ModelConfig& Weights::config() const { return impl_->config; }
std::span<const LiftedVariant> Weights::variants() const { return impl_->variants; }
const LiftedFile* Weights::file() const { return impl_->file.get(); }
const Checkpoint* Weights::checkpoint() const { return impl_->checkpoint.get(); }

int Weights::FindVariant(std::string_view name) const {
  for (size_t i = 0; i < impl_->variants.size(); ++i) {
    if (impl_->variants[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

absl::StatusOr<const Matrix*> Weights::GetMatrix(const std::string& name) const {
  const auto at = impl_->matrices.find(name);
  if (at == impl_->matrices.end()) return Missing(name);
  return &at->second;
}

std::span<const float> Weights::GetVector(const std::string& name) const {
  const auto at = impl_->vectors.find(name);
  return at == impl_->vectors.end() ? std::span<const float>() : std::span<const float>(at->second);
}

const LiftSite* Weights::FindSite(const std::string& name) const {
  const auto at = impl_->sites.find(name);
  return at == impl_->sites.end() ? nullptr : &at->second;
}

void Weights::OverrideDense(const std::string& name, const float* values) {
  const auto at = impl_->matrices.find(name);
  LIFT_CHECK(at != impl_->matrices.end());
  Matrix& matrix = at->second;
  const Matrix& stored = impl_->overridden.try_emplace(name, matrix).first->second;
  if (!values) {
    matrix = stored;
    impl_->overridden.erase(name);
    return;
  }
  matrix.lifted = {};
  matrix.dense = DenseMatrixView{DType::kF32, matrix.rows, matrix.cols,
                                 reinterpret_cast<const std::byte*>(values)};
}

uint64_t Weights::VariantBytes(int variant) const {
  LIFT_CHECK(variant >= 0 && static_cast<size_t>(variant) < impl_->variants.size());
  return impl_->variants[static_cast<size_t>(variant)].bytes;
}

uint64_t Weights::ResidentBytes() const {
  if (!impl_->file) return impl_->variants.front().bytes;
  uint64_t planes = 0, source = 0;
  for (const LiftedVariant& variant : impl_->variants)
    planes = std::max(planes, variant.plane_bytes);
  if (impl_->variants.back().full) {
    for (const LiftedTensor& tensor : impl_->file->tensors()) source += tensor.source->bytes();
  }
  return impl_->file->fixed_bytes() + planes + source;
}

// What `variants` read: a prefix of the planes, and the source or not.
std::pair<uint64_t, bool> Weights::Impl::ReadBy(std::span<const int> read) const {
  uint64_t planes = 0;
  bool source = false;
  for (const int v : read) {
    const LiftedVariant& variant = variants.at(static_cast<size_t>(v));
    planes = std::max(planes, variant.plane_bytes);
    source = source || variant.full;
  }
  return {planes, source};
}

absl::Status Weights::Verify(std::span<const int> variants, ThreadPool* pool,
                             const std::atomic<bool>* stop) const {
  const LiftedFile* file = impl_->file.get();
  if (file == nullptr) return absl::OkStatus();
  const auto [planes, source] = impl_->ReadBy(variants);
  LIFT_RETURN_IF_ERROR(file->VerifyPlanes(planes, pool, stop));
  return source ? file->VerifySource(pool, stop) : absl::OkStatus();
}

// All that steps of these variants read (empty: of all).
std::vector<std::span<const std::byte>> Weights::Impl::Spans(std::span<const int> kept) const {
  std::vector<int> all(variants.size());
  std::iota(all.begin(), all.end(), 0);
  const auto [planes, source] = ReadBy(kept.empty() ? std::span<const int>(all) : kept);
  std::vector<std::span<const std::byte>> spans;
  const auto add = [&](const auto& values) { spans.push_back(std::as_bytes(std::span(values))); };
  for (const auto& [name, values] : vectors) add(values);
  if (file) {
    spans.push_back(file->planes().first(planes));
    for (const LiftedTensor& tensor : file->tensors()) add(tensor.row_scale);
    for (const LiftCode& code : file->codes()) add(code.taps);
  }
  for (const auto& [key, rotation] : rotations) {
    add(rotation->signs());
    add(rotation->hartley());
  }
  for (const auto& [name, strips] : lifted) {
    for (const LiftedMatrix& strip : strips) add(strip.stage_rows);
  }
  for (const auto& [name, site] : sites) {
    add(site.used);
    add(site.wide);
  }
  for (const auto& [name, matrix] : matrices) {
    if (matrix.dense && (source || matrix.lifted.empty()))
      spans.push_back({matrix.dense->data, matrix.dense->bytes()});
  }
  return spans;
}

absl::Status Weights::Adopt(Backend& backend, std::span<const int> kept) const {
  for (const auto span : impl_->Spans(kept)) LIFT_RETURN_IF_ERROR(backend.Adopt(span));
  if (impl_->file && !backend.host_memory()) {
    impl_->file->Release(impl_->file->planes());
    impl_->file->Release(impl_->file->source());
  }
  return absl::OkStatus();
}

void Weights::Abandon(Backend& backend) const {
  for (const auto span : impl_->Spans({})) backend.Abandon(span);
}

void Weights::Retain(std::span<const int> variants, Backend& backend) const {
  const LiftedFile* file = impl_->file.get();
  if (file == nullptr) return;
  const auto [planes, source] = impl_->ReadBy(variants);
  if (!backend.host_memory()) {
    // Ops stage what has no room on the device: slow, and right.
    (void)backend.Adopt(file->planes().first(planes));
    file->Release(file->planes());
    return;
  }
  file->Release(file->planes().subspan(planes));
  if (!source) file->Release(file->source());
  file->Prefetch(file->planes().first(planes));
  if (source) file->Prefetch(file->source());
}

}  // namespace lift
