// The META section: one JSON document.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/format/layout.h"

namespace lift::format {
namespace {

using nlohmann::json;

json CodesToJson(const Contents& contents) {
  json codes = json::array();
  for (const LiftCode& code : contents.codes) {
    codes.push_back({{"name", code.name},
                     {"stored", code.stored},
                     {"derived", code.derived},
                     {"steps", code.steps},
                     {"masks", code.masks},
                     {"taps", code.taps}});
  }
  return codes;
}

json TensorsToJson(const Contents& contents) {
  json tensors = json::array();
  for (const LiftedTensor& tensor : contents.tensors) {
    json stages = json::array();
    for (const LiftStage& stage : tensor.stages) {
      stages.push_back({{"code", stage.code},
                        {"gain", stage.gain},
                        {"offset", stage.offset},
                        {"bytes", stage.bytes}});
    }
    json entry = {
        {"name", tensor.name}, {"rows", tensor.rows}, {"cols", tensor.cols}, {"stages", stages}};
    if (tensor.rotation.enabled) entry["rotation_seed"] = tensor.rotation.seed;
    if (tensor.source) entry["source_dtype"] = DTypeName(tensor.source->type);
    tensors.push_back(std::move(entry));
  }
  return tensors;
}

// The parts whose values decide a model's outputs.
json Identity(const Contents& contents) {
  json vectors = json::array(), order = json::array();
  for (size_t i = 0; i < contents.vectors.size(); ++i) {
    vectors.push_back({{"name", contents.vectors[i].name}, {"count", contents.vector_counts[i]}});
  }
  for (const PlaneUnit& unit : contents.order) order.push_back({unit.tensor, unit.stage});
  return {{"model_config", contents.model_config},
          {"codes", CodesToJson(contents)},
          {"tensors", TensorsToJson(contents)},
          {"vectors", std::move(vectors)},
          {"plane_order", std::move(order)}};
}

// Reads typed members of a document and keeps the first error; later reads then do nothing.
class MemberReader {
 public:
  const absl::Status& status() const { return status_; }

  void Integer(const json& object, const char* key, int64_t& out) {
    const json* value = Find(object, key);
    if (!value) return;
    if (!value->is_number_integer() ||
        (value->is_number_unsigned() &&
         value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))) {
      return Fail(key, "an integer");
    }
    out = value->get<int64_t>();
  }
  void Int32(const json& object, const char* key, int& out) {
    int64_t wide = 0;
    Integer(object, key, wide);
    if (wide < std::numeric_limits<int>::min() || wide > std::numeric_limits<int>::max()) {
      return Fail(key, "a small integer");
    }
    out = static_cast<int>(wide);
  }
  void Unsigned(const json& object, const char* key, uint64_t& out) {
    const json* value = Find(object, key);
    if (!value) return;
    if (!value->is_number_unsigned()) return Fail(key, "an integer that is not negative");
    out = value->get<uint64_t>();
  }
  void Number(const json& object, const char* key, double& out) {
    const json* value = Find(object, key);
    if (!value) return;
    if (!value->is_number()) return Fail(key, "a number");
    out = value->get<double>();
  }
  void Text(const json& object, const char* key, std::string& out) {
    const json* value = Find(object, key);
    if (!value) return;
    if (!value->is_string()) return Fail(key, "a string");
    out = value->get<std::string>();
  }
  void Flag(const json& object, const char* key, bool& out) {
    const json* value = Find(object, key);
    if (!value) return;
    if (!value->is_boolean()) return Fail(key, "true or false");
    out = value->get<bool>();
  }
  // An empty array on error.
  const json& Array(const json& object, const char* key) {
    static const json kEmpty = json::array();
    const json* value = Find(object, key);
    if (!value) return kEmpty;
    if (!value->is_array()) {
      Fail(key, "an array");
      return kEmpty;
    }
    return *value;
  }
  void Fail(const char* key, const char* wanted) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(absl::StrCat("META: '", key, "' must be ", wanted));
  }

 private:
  const json* Find(const json& object, const char* key) {
    if (!status_.ok()) return nullptr;
    if (object.is_object()) {
      if (auto it = object.find(key); it != object.end()) return &*it;
    }
    status_ = absl::InvalidArgumentError(absl::StrCat("META: '", key, "' is missing"));
    return nullptr;
  }
  absl::Status status_;
};

void ReadCodes(const json& meta, MemberReader& in, Contents& contents) {
  for (const json& entry : in.Array(meta, "codes")) {
    LiftCode& code = contents.codes.emplace_back();
    in.Text(entry, "name", code.name);
    in.Int32(entry, "stored", code.stored);
    in.Int32(entry, "derived", code.derived);
    in.Int32(entry, "steps", code.steps);
    for (const json& mask : in.Array(entry, "masks")) {
      if (!mask.is_number_unsigned()) return in.Fail("masks", "integers");
      code.masks.push_back(mask.get<uint64_t>());
    }
    for (const json& tap : in.Array(entry, "taps")) {
      if (!tap.is_number()) return in.Fail("taps", "numbers");
      code.taps.push_back(tap.get<float>());
    }
  }
}

// `stated` collects each stage's offset and bytes as written, to be compared with the canonical
// layout.
void ReadTensors(const json& meta, MemberReader& in, Contents& contents,
                 std::vector<std::pair<uint64_t, uint64_t>>& stated) {
  for (const json& entry : in.Array(meta, "tensors")) {
    LiftedTensor& tensor = contents.tensors.emplace_back();
    in.Text(entry, "name", tensor.name);
    in.Integer(entry, "rows", tensor.rows);
    in.Integer(entry, "cols", tensor.cols);
    if (!in.status().ok()) return;
    if (entry.contains("rotation_seed")) {
      tensor.rotation.enabled = true;
      in.Unsigned(entry, "rotation_seed", tensor.rotation.seed);
    }
    if (entry.contains("source_dtype")) {
      std::string dtype;
      in.Text(entry, "source_dtype", dtype);
      auto type = DTypeFromName(dtype);
      if (!type.ok()) return in.Fail("source_dtype", "a known type");
      tensor.source = DenseMatrixView{*type, tensor.rows, tensor.cols, nullptr};
    }
    for (const json& item : in.Array(entry, "stages")) {
      LiftStage& stage = tensor.stages.emplace_back();
      double gain = 0;
      in.Int32(item, "code", stage.code);
      in.Number(item, "gain", gain);
      stage.gain = static_cast<float>(gain);
      auto& [offset, bytes] = stated.emplace_back();
      in.Unsigned(item, "offset", offset);
      in.Unsigned(item, "bytes", bytes);
    }
  }
}

void ReadOrder(const json& meta, MemberReader& in, Contents& contents) {
  for (const json& item : in.Array(meta, "plane_order")) {
    constexpr int64_t kCap = 1 << 20;
    if (!item.is_array() || item.size() != 2 || !item[0].is_number_unsigned() ||
        !item[1].is_number_unsigned() || item[0].get<uint64_t>() > kCap ||
        item[1].get<uint64_t>() > kCap) {
      return in.Fail("plane_order", "pairs of tensor and stage");
    }
    contents.order.push_back({item[0].get<int>(), item[1].get<int>()});
  }
  for (const json& item : in.Array(meta, "plane_crc32")) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > 0xFFFFFFFFu) {
      return in.Fail("plane_crc32", "32-bit integers");
    }
    contents.unit_crcs.push_back(item.get<uint32_t>());
  }
}

void ReadVariants(const json& meta, MemberReader& in, Contents& contents) {
  for (const json& entry : in.Array(meta, "variants")) {
    LiftedVariant& variant = contents.variants.emplace_back();
    in.Text(entry, "name", variant.name);
    in.Number(entry, "lambda", variant.lambda);
    in.Number(entry, "bits_per_weight", variant.bits_per_weight);
    in.Flag(entry, "full", variant.full);
    in.Unsigned(entry, "plane_bytes", variant.plane_bytes);
    in.Unsigned(entry, "budget_bytes", variant.budget_bytes);
    in.Unsigned(entry, "bytes", variant.bytes);
    in.Number(entry, "kl", variant.kl);
    in.Number(entry, "perplexity", variant.perplexity);
    in.Int32(entry, "wide_stages", variant.wide_stages);
  }
}

}  // namespace

std::string IdentityJson(const Contents& contents) { return Identity(contents).dump(); }

std::string MetaToJson(const Contents& contents) {
  json meta = Identity(contents);
  meta["source_sha256"] = contents.source_sha256;
  meta["weights_sha256"] = contents.weights_sha256;
  meta["report"] = contents.report;
  if (!contents.router.empty()) meta["router"] = contents.router;
  meta["plane_crc32"] = contents.unit_crcs;
  json variants = json::array();
  for (const LiftedVariant& v : contents.variants) {
    variants.push_back({{"name", v.name},
                        {"lambda", v.lambda},
                        {"bits_per_weight", v.bits_per_weight},
                        {"full", v.full},
                        {"plane_bytes", v.plane_bytes},
                        {"budget_bytes", v.budget_bytes},
                        {"bytes", v.bytes},
                        {"kl", v.kl},
                        {"perplexity", v.perplexity},
                        {"wide_stages", v.wide_stages}});
  }
  meta["variants"] = std::move(variants);
  return meta.dump();
}

absl::Status ParseMeta(std::string_view text, Contents& contents, Layout& layout) {
  const json meta = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!meta.is_object()) return absl::InvalidArgumentError("META is not a JSON object");
  MemberReader in;
  std::vector<std::pair<uint64_t, uint64_t>> stated;
  in.Text(meta, "model_config", contents.model_config);
  in.Text(meta, "source_sha256", contents.source_sha256);
  in.Text(meta, "weights_sha256", contents.weights_sha256);
  in.Text(meta, "report", contents.report);
  if (meta.contains("router")) in.Text(meta, "router", contents.router);
  ReadCodes(meta, in, contents);
  ReadTensors(meta, in, contents, stated);
  for (const json& entry : in.Array(meta, "vectors")) {
    in.Text(entry, "name", contents.vectors.emplace_back().name);
    in.Unsigned(entry, "count", contents.vector_counts.emplace_back());
  }
  ReadOrder(meta, in, contents);
  ReadVariants(meta, in, contents);
  LIFT_RETURN_IF_ERROR(in.status());
  LIFT_RETURN_IF_ERROR(LayOut(contents, layout));
  if (contents.unit_crcs.size() != contents.order.size()) {
    return absl::InvalidArgumentError(
        "META: 'plane_crc32' must have one entry for each plane unit");
  }
  size_t next = 0;
  for (const LiftedTensor& tensor : contents.tensors) {
    for (const LiftStage& stage : tensor.stages) {
      if (stated[next++] != std::pair(stage.offset, stage.bytes)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "META: a stage of '", tensor.name, "' states an extent that does not fit its shape"));
      }
    }
  }
  return CheckVariants(contents, layout);
}

}  // namespace lift::format
