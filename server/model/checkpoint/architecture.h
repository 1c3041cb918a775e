// What the loaders must know of each architecture: its names in Hugging Face folders and GGUF
// files, the fields of its config beyond the common ones, and how stored tensors become canonical
// ones. One file of families/ each, and one row of the table in architecture.cc.
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"
#include "server/model/checkpoint/gguf.h"
#include "server/model/checkpoint/json_fields.h"
#include "server/model/checkpoint/tensor_spec.h"
#include "server/model/model_config.h"

namespace lift {

// Tensors by name while a checkpoint is opened; `copies` owns the few whose rows had to be
// reordered.
struct StoredTensors {
  std::map<std::string, StoredTensor> by_name;
  std::deque<std::vector<std::byte>> copies;
};

// "#" stands for a number; the last component (weight, bias) is kept.
// E.g. {"gpt_neox.layers.#.attention.dense", "model.layers.#.self_attn.o_proj"}.
struct NameRule {
  std::string_view stored, canonical;
};

// A tensor that Hugging Face folders hold as one and the graph as several (canonical names): the
// parts' rows lie as [heads][parts][rows of a part / heads].
struct FusedTensor {
  std::string name;
  std::vector<std::string> parts;
  int64_t heads = 1;
};

struct Architecture {
  std::string_view name;      // Hugging Face's model_type
  std::string_view hf_class;  // what config.json's "architectures" names
  std::string_view gguf;      // general.architecture; empty: no GGUF of it
  std::span<const NameRule> hf_names, gguf_names;
  bool gelu = false;            // hidden_act may be a GELU; else it must be SiLU
  bool partial_rotary = false;  // only part of a head may be rotated
  bool recurrent = false;       // no attention: read_hf and read_gguf set ModelConfig::ssm
  bool sliding_window = false;  // all layers may have one
  bool layer_windows = false;   // some layers may: read_hf and read_gguf say which
  bool gains_less_one = false;  // Hugging Face folders hold the norms' gains less one
  double rope_theta = 10000;    // where config.json does not say
  // Reads what the common fields do not say and refuses by name what the graph cannot do; null:
  // nothing. Called after the common fields.
  absl::Status (*read_hf)(const JsonFields& fields, ModelConfig& config) = nullptr;
  absl::Status (*read_gguf)(const GgufFile& file, ModelConfig& config) = nullptr;
  // The inverse of read_hf: adds the fields of config.json beyond the common ones; null: none.
  void (*write_hf)(const ModelConfig& config, nlohmann::json& fields) = nullptr;
  // Splits fused tensors (already under canonical names) into those that the graph binds; null:
  // none are fused. `gguf` tells how rows are ordered.
  absl::Status (*split)(const ModelConfig& config, bool gguf, StoredTensors& tensors) = nullptr;
  // What Hugging Face folders store fused, for writing them; null: nothing.
  std::vector<FusedTensor> (*fused)(const ModelConfig& config) = nullptr;
};

std::span<const Architecture> Architectures();
const Architecture* FindHuggingFace(std::string_view model_type);  // null: unsupported
// `name` is general.architecture; a GGUF "llama" with experts is Mixtral's.
const Architecture* FindGguf(std::string_view name, bool experts);
// "llama, mistral and qwen2", for messages.
std::string SupportedNames(bool gguf);

// The canonical name by the first rule that fits, or `name` itself.
std::string CanonicalName(std::span<const NameRule> rules, std::string_view name);
// Its inverse: what a folder calls the tensor.
std::string StoredName(std::span<const NameRule> rules, std::string_view canonical);

// Replaces `name` [n * rows, ...] by views of equal kind: the parts' names with their rows, in
// order. Nothing if `name` is absent. INVALID_ARGUMENT if the rows do not add up.
struct RowPart {
  std::string name;
  int64_t rows = 0;
};
absl::Status SplitRows(StoredTensors& tensors, const std::string& name,
                       const std::vector<RowPart>& parts);
// The same for rows stored as [heads][parts][head_dim]: copies them.
absl::Status SplitHeads(StoredTensors& tensors, const std::string& name,
                        const std::vector<std::string>& parts, int64_t heads);
// Replaces `name` [experts, rows, cols] by views named prefix + expert + suffix.
absl::Status SplitExperts(StoredTensors& tensors, const std::string& name, int64_t experts,
                          const std::string& prefix, const std::string& suffix);

// Adds `offset` to every norm's gain: copies them, as f32. Unreadable ones are left for
// BindTensors.
void AddToGains(StoredTensors& tensors, float offset);
// Is this canonical tensor the gain of a norm?
bool IsGain(std::string_view name);

}  // namespace lift
