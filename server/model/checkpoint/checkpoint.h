// A model as others publish it: a Hugging Face folder or a GGUF file, mapped, nothing copied.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/status.h"
#include "server/model/model_config.h"

namespace lift {

class GgufFile;

// Immutable after Open; thread-safe. Tensor names are canonical = Hugging Face Llama names
// ("model.embed_tokens.weight", "model.layers.3.self_attn.q_proj.weight",
// "model.layers.3.input_layernorm.weight", "model.norm.weight", "lm_head.weight", ...), also for
// GGUF, whose q/k row order is kept and described by config().rope.interleaved.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  // INVALID_ARGUMENT / NOT_FOUND / UNIMPLEMENTED with one sentence that names what is wrong or
  // unsupported and what to change. The whole structure is validated here (architecture, every
  // tensor the config asks for, shapes, dtypes) before memory is spent.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);

  virtual const ModelConfig& config() const = 0;
  virtual std::optional<DenseMatrixView> Find(const std::string& canonical_name) const = 0;
  virtual std::vector<std::string> names() const = 0;
  virtual std::string source_sha256()
      const = 0;  // over every weight file's bytes, computed on call (reads all bytes)
  virtual int64_t tensor_bytes() const = 0;  // stored bytes of all tensors used

  // The source's pages leave this process's resident set; the page cache keeps them. For work that
  // goes through a model larger than its memory layer by layer.
  virtual void LeaveResidentSet() const = 0;

  // Exactly one of these is set; server/tokenizer reads the tokenizer from it.
  virtual const GgufFile* gguf() const { return nullptr; }
  virtual std::optional<std::string> folder() const { return std::nullopt; }
};

// True if `path` looks like one (folder with config.json, or GGUF magic); lifted files have their
// own magic.
bool LooksLikeCheckpoint(const std::string& path);

}  // namespace lift
