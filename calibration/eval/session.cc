#include "calibration/eval/session.h"

#include <cstdio>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "server/tokenizer/tokenizer_spec.h"

namespace lift::eval {

absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadTokenizer(const Weights& weights) {
  TokenizerSpec spec;
  if (weights.file()) {
    LIFT_ASSIGN_OR_RETURN(spec, TokenizerSpec::FromJson(weights.file()->tokenizer_json()));
  } else {
    LIFT_ASSIGN_OR_RETURN(spec, LoadTokenizerSpec(*weights.checkpoint()));
  }
  return Tokenizer::Create(std::move(spec));
}

absl::StatusOr<int> FindVariant(const Weights& weights, const std::string& name) {
  if (const int index = weights.FindVariant(name); index >= 0) return index;
  std::string known;
  for (const LiftedVariant& variant : weights.variants()) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", variant.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the model has no variant '", name, "'; it has ", known));
}

std::vector<int32_t> StopIds(const TokenizerSpec& spec) {
  std::vector<int32_t> ids = spec.eos_ids;
  if (spec.eos_id >= 0) ids.push_back(spec.eos_id);
  return ids;
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (!in.is_open() || in.bad())
    return absl::NotFoundError(absl::StrCat("cannot read the text '", path, "'"));
  if (text.empty())
    return absl::InvalidArgumentError(absl::StrCat("the text '", path, "' is empty"));
  return text;
}

absl::StatusOr<std::unique_ptr<Device>> Device::Make(int threads, const std::string& name) {
  std::unique_ptr<Device> device(new Device(threads));
  LIFT_ASSIGN_OR_RETURN(DeviceChoice choice, MakeDevice(name, device->pool));
  if (!choice.note.empty()) std::fprintf(stderr, "%s\n", choice.note.c_str());
  device->backend = std::move(choice.backend);
  return device;
}

}  // namespace lift::eval
