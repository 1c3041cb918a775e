// Builds a lifted file: everything is checked and laid out first, then written.
#include <openssl/evp.h>

#include <exception>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/format/section_writer.h"

namespace lift {
namespace {

using format::AsBytes;
using format::ByteSpan;
using format::Contents;
using format::Layout;
using format::Pieces;
using format::SectionKind;

// Hex SHA-256 over the identity document and the content of the weight sections.
std::string HashWeights(const std::string& identity, std::span<const Pieces* const> sections) {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                  EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  EVP_DigestUpdate(context.get(), identity.data(), identity.size());
  for (const Pieces* section : sections) {
    EVP_DigestUpdate(context.get(), &section->bytes, sizeof(section->bytes));
    for (ByteSpan piece : section->list) {
      EVP_DigestUpdate(context.get(), piece.data(), piece.size());
    }
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  EVP_DigestFinal_ex(context.get(), digest, &length);
  std::string hex;
  for (unsigned int i = 0; i < length; ++i)
    absl::StrAppend(&hex, absl::Hex(digest[i], absl::kZeroPad2));
  return hex;
}

}  // namespace

struct LiftedFileWriter::Impl {
  struct TensorData {
    std::vector<uint16_t> row_scale;
    std::vector<StageData> stages;
    ByteSpan source;
  };
  Contents contents;
  std::string tokenizer = "{}";
  std::vector<std::vector<float>> vectors;
  std::vector<TensorData> tensors;

  absl::Status CheckData() const;
};

absl::Status LiftedFileWriter::Impl::CheckData() const {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const LiftedTensor& tensor = contents.tensors[i];
    if (tensors[i].row_scale.size() != static_cast<size_t>(tensor.rows)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", tensor.name, "' needs one scale per row"));
    }
    for (size_t j = 0; j < tensor.stages.size(); ++j) {
      if (tensors[i].stages[j].planes.size() != tensor.stages[j].bytes) {
        return absl::InvalidArgumentError(absl::StrCat(
            "stage ", j, " of '", tensor.name, "' has ", tensors[i].stages[j].planes.size(),
            " bytes of planes instead of ", tensor.stages[j].bytes));
      }
    }
  }
  return absl::OkStatus();
}

LiftedFileWriter::StageData::StageData(int of_code, float with_gain, std::vector<uint8_t> values)
    : code(of_code), gain(with_gain) {
  auto held = std::make_shared<const std::vector<uint8_t>>(std::move(values));
  planes = *held;
  owner = std::move(held);
}

LiftedFileWriter::LiftedFileWriter() : impl_(std::make_unique<Impl>()) {}
LiftedFileWriter::~LiftedFileWriter() = default;

void LiftedFileWriter::SetModelConfig(std::string json) {
  impl_->contents.model_config = std::move(json);
}
void LiftedFileWriter::SetTokenizer(std::string json) { impl_->tokenizer = std::move(json); }
void LiftedFileWriter::SetSourceSha256(std::string hex) {
  impl_->contents.source_sha256 = std::move(hex);
}
void LiftedFileWriter::SetReport(std::string json) { impl_->contents.report = std::move(json); }

int LiftedFileWriter::AddCode(LiftCode code) {
  impl_->contents.codes.push_back(std::move(code));
  return static_cast<int>(impl_->contents.codes.size()) - 1;
}

void LiftedFileWriter::AddVector(std::string name, std::vector<float> values) {
  impl_->contents.vectors.push_back({std::move(name), {}});
  impl_->contents.vector_counts.push_back(values.size());
  impl_->vectors.push_back(std::move(values));
}

int LiftedFileWriter::AddTensor(std::string name, int64_t rows, int64_t cols, RotationSpec rotation,
                                std::vector<uint16_t> row_scale, std::vector<StageData> stages,
                                std::optional<DenseMatrixView> source) {
  LiftedTensor tensor;
  tensor.name = std::move(name);
  tensor.rows = rows, tensor.cols = cols;
  tensor.rotation = rotation;
  for (const StageData& stage : stages) tensor.stages.push_back({stage.code, stage.gain, 0, 0});
  Impl::TensorData data;
  if (source) {
    data.source = ByteSpan(source->data, source->bytes());
    tensor.source = *source;
    tensor.source->data = nullptr;
  }
  data.row_scale = std::move(row_scale);
  data.stages = std::move(stages);
  impl_->contents.tensors.push_back(std::move(tensor));
  impl_->tensors.push_back(std::move(data));
  return static_cast<int>(impl_->tensors.size()) - 1;
}

void LiftedFileWriter::SetPlaneOrder(std::vector<PlaneUnit> order) {
  impl_->contents.order = std::move(order);
}
void LiftedFileWriter::SetVariants(std::vector<LiftedVariant> variants) {
  impl_->contents.variants = std::move(variants);
}

absl::Status LiftedFileWriter::Finish(const std::string& path) {
  Contents& contents = impl_->contents;
  Layout layout;
  LIFT_RETURN_IF_ERROR(format::LayOut(contents, layout));
  LIFT_RETURN_IF_ERROR(impl_->CheckData());
  format::FillVariants(contents, layout);
  LIFT_RETURN_IF_ERROR(format::CheckVariants(contents, layout));

  Pieces vectors, scales, planes, source;
  for (const auto& values : impl_->vectors)
    vectors.Pad(format::kAlignment), vectors.Append(AsBytes(values));
  for (const auto& tensor : impl_->tensors) {
    scales.Pad(format::kAlignment), scales.Append(AsBytes(tensor.row_scale));
    if (!tensor.source.empty()) source.Pad(format::kAlignment), source.Append(tensor.source);
  }
  contents.unit_crcs.clear();
  for (const PlaneUnit& unit : contents.order) {
    const auto& stage =
        impl_->tensors[static_cast<size_t>(unit.tensor)].stages[static_cast<size_t>(unit.stage)];
    contents.unit_crcs.push_back(format::Crc32(std::as_bytes(stage.planes)));
    planes.Append(std::as_bytes(stage.planes));
  }

  std::string meta_text;
  try {  // the JSON library reports text that is not UTF-8 by throwing
    const Pieces* const weight_sections[] = {&vectors, &scales, &planes, &source};
    contents.weights_sha256 = HashWeights(format::IdentityJson(contents), weight_sections);
    meta_text = format::MetaToJson(contents);
  } catch (const std::exception&) {
    return absl::InvalidArgumentError(
        "a name or document given to the lifted file is not valid UTF-8");
  }
  Pieces meta, tokenizer;
  meta.Append(AsBytes(meta_text));
  tokenizer.Append(AsBytes(impl_->tokenizer));

  std::vector<format::SectionPart> parts = {{SectionKind::kMeta, &meta},
                                            {SectionKind::kTokenizer, &tokenizer},
                                            {SectionKind::kVectors, &vectors},
                                            {SectionKind::kScales, &scales},
                                            {SectionKind::kPlanes, &planes}};
  if (source.bytes > 0) parts.push_back({SectionKind::kSource, &source});
  return format::WriteSections(path, parts);
}

}  // namespace lift
