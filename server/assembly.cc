#include "server/assembly.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/devices.h"
#include "router/predictor.h"
#include "server/model/model_layout.h"
#include "server/tuning/cpu_tuning.h"

namespace lift {
namespace {

constexpr int64_t kBlockTokens = 16;
constexpr int64_t kDefaultStateBytes = int64_t{1} << 30;

absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadTokenizer(const Weights& weights) {
  TokenizerSpec spec;
  if (const LiftedFile* file = weights.file()) {
    LIFT_ASSIGN_OR_RETURN(spec, TokenizerSpec::FromJson(file->tokenizer_json()));
  } else {
    LIFT_ASSIGN_OR_RETURN(spec, LoadTokenizerSpec(*weights.checkpoint()));
  }
  LIFT_ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer,
                        Tokenizer::Create(std::move(spec)));
  // Models pad their embedding; a tokenizer with more ids than embeddings belongs to another model.
  if (tokenizer->vocab_size() > weights.config().vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tokenizer has ", tokenizer->vocab_size(), " tokens and the model only ",
                     weights.config().vocab_size, "; they do not belong together"));
  }
  return tokenizer;
}

// State blocks for the configured memory.
absl::StatusOr<int64_t> StateBlocks(const ServerConfig& config, const ModelConfig& model) {
  const KvFormat format = *ParseKvFormat(config.kv_cache);
  const int64_t block_bytes =
      model.num_layers * layout::StateBlockBytes(model, kBlockTokens, format);
  const int64_t block_tokens = layout::StateBlockTokens(model, kBlockTokens);
  // A recurrent model's block is a whole sequence's state.
  const int64_t context_blocks =
      model.recurrent() ? config.max_batch : (model.max_context + block_tokens - 1) / block_tokens;
  int64_t blocks =
      std::max<int64_t>(std::min(4 * context_blocks, kDefaultStateBytes / block_bytes), 1);
  if (config.kv_tokens > 0) blocks = (config.kv_tokens + block_tokens - 1) / block_tokens;
  if (config.kv_memory_mb > 0) blocks = (config.kv_memory_mb << 20) / block_bytes;
  if (blocks < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--kv-memory-mb ", config.kv_memory_mb,
                                                   " holds no block of ", block_bytes,
                                                   " bytes; give more"));
  }
  if (blocks > INT32_MAX) {
    return absl::InvalidArgumentError(
        "the attention state asked for has more than 2^31 blocks; give less");
  }
  return blocks;
}

void FillInfo(const Weights& weights, const std::string& path, ServingModel& out) {
  const ModelConfig& config = weights.config();
  ModelInfo& info = out.info;
  info.name = config.name.empty() ? std::filesystem::path(path).stem().string() : config.name;
  info.architecture = config.architecture;
  if (const LiftedFile* file = weights.file()) {
    info.weights_sha256 = file->weights_sha256();
    info.source_sha256 = file->source_sha256();
  } else {
    info.source_sha256 = weights.checkpoint()->source_sha256();
    info.weights_sha256 = info.source_sha256;
  }
  // A request must fit the model's context and the state pool.
  info.max_context =
      std::min(out.model->max_context(), out.model->num_blocks() * out.model->block_tokens());
  info.vocab_size = out.model->vocab_size();
  info.resident_bytes = FillResidentBytes(out.model->variants(), info.variants);
  info.state_bytes = out.transformer->state_bytes();
  info.workspace_bytes = out.backend->host_memory()
                             ? out.transformer->workspace_bytes()
                             : out.backend->allocated_bytes(MemoryKind::kWorkspace);
  info.device = std::string(out.backend->device());
  info.memory_probe = out.backend->memory_probe();
  info.device_description = out.backend->description();
}

// The policy as configured over the predictor the file carries, if it carries one.
absl::StatusOr<router::RouterConfig> LoadRouter(const ServerConfig& config, const Weights& weights,
                                                std::span<const int> kept) {
  router::RouterConfig router;
  LIFT_ASSIGN_OR_RETURN(router.policy, router::ParsePolicy(config.route));
  if (const std::string& fixed = router.policy.variant; !fixed.empty()) {
    const auto named = [&](int v) {
      return weights.variants()[static_cast<size_t>(v)].name == fixed;
    };
    if (std::none_of(kept.begin(), kept.end(), named)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--route ", config.route, ": no such variant is served"));
    }
  }
  const LiftedFile* file = weights.file();
  if (file == nullptr || file->router_json().empty()) return router;
  auto predictor = router::Predictor::FromJson(file->router_json());
  if (!predictor.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the router of '", config.model, "' cannot be used: ", predictor.status().message(),
        " (lift-calibrate router)"));
  }
  router.predictor = *std::move(predictor);
  return router;
}

}  // namespace

VariantSubset::VariantSubset(StepModel& model, std::vector<int> kept)
    : model_(model), kept_(std::move(kept)) {
  LIFT_CHECK(!kept_.empty());
  for (int index : kept_) variants_.push_back(model.variants()[static_cast<size_t>(index)]);
}

StepStats VariantSubset::Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) {
  renumbered_.assign(chunks.begin(), chunks.end());
  for (SequenceChunk& chunk : renumbered_) {
    chunk.variant = kept_.at(static_cast<size_t>(chunk.variant));
  }
  return model_.Step(renumbered_, logits);
}

void VariantSubset::Retain(std::span<const int> variants) {
  std::vector<int> renumbered;
  for (const int v : variants) renumbered.push_back(kept_.at(static_cast<size_t>(v)));
  model_.Retain(renumbered);
}

absl::StatusOr<std::vector<int>> SelectVariants(std::span<const LiftedVariant> variants,
                                                const std::vector<std::string>& names) {
  std::vector<int> kept;
  for (size_t i = 0; i < variants.size(); ++i) {
    if (names.empty() || std::find(names.begin(), names.end(), variants[i].name) != names.end()) {
      kept.push_back(static_cast<int>(i));
    }
  }
  for (const std::string& name : names) {
    const auto has = [&](const LiftedVariant& v) { return v.name == name; };
    if (std::any_of(variants.begin(), variants.end(), has)) continue;
    std::string known;
    for (const LiftedVariant& v : variants)
      absl::StrAppend(&known, known.empty() ? "" : ", ", v.name);
    return absl::InvalidArgumentError(
        absl::StrCat("--variants: the file has no variant '", name, "'; it has ", known));
  }
  return kept;
}

uint64_t FillResidentBytes(std::span<const LiftedVariant> variants,
                           std::vector<VariantInfo>& infos) {
  infos.clear();
  uint64_t resident = 0, planes = 0;  // so far
  for (const LiftedVariant& v : variants) {
    // A coarser variant already holds the fixed bytes and its prefix of the planes. The source
    // shares only the fixed bytes, which are what a plane variant holds besides its planes.
    uint64_t added = v.bytes;
    if (resident > 0) {
      const uint64_t fixed = infos.front().bytes - variants.front().plane_bytes;
      added = v.full ? v.bytes - fixed : v.plane_bytes - planes;
    }
    planes = std::max(planes, v.plane_bytes);
    resident += added;
    infos.push_back(
        {.name = v.name,
         .lambda = v.lambda,
         .bits_per_weight = v.bits_per_weight,
         .full = v.full,
         .bytes = v.bytes,
         .incremental_bytes = added,
         .kl = v.full && v.kl < 0 ? 0 : v.kl,  // the source does not diverge from itself
         .perplexity = v.perplexity});
  }
  return resident;
}

absl::StatusOr<std::unique_ptr<ServingModel>> LoadServingModel(const ServerConfig& config) {
  auto out = std::make_unique<ServingModel>();
  LIFT_ASSIGN_OR_RETURN(out->weights,
                        Weights::Open(config.model, {.verify_planes = false,
                                                     .cuts = BytesOfMegabytes(config.cut_mb)}));
  LIFT_ASSIGN_OR_RETURN(std::vector<int> kept,
                        SelectVariants(out->weights->variants(), config.variants));
  out->pool = std::make_unique<ThreadPool>(config.threads > 0 ? config.threads : AvailableCores());
  // Planes that are not served are neither read nor checked.
  if (config.verify == "start") {
    LIFT_RETURN_IF_ERROR(out->weights->Verify(kept, out->pool.get(), nullptr));
  }
  LIFT_ASSIGN_OR_RETURN(out->tokenizer, LoadTokenizer(*out->weights));
  if (const std::string& source = out->tokenizer->spec().chat_template; !source.empty()) {
    auto compiled = ChatTemplate::Compile(source);
    if (compiled.ok()) {
      out->chat_template = *std::move(compiled);
    } else {
      out->warning = absl::StrCat("Chat is off: ", compiled.status().message());
    }
  }
  LIFT_ASSIGN_OR_RETURN(const int64_t blocks, StateBlocks(config, out->weights->config()));
  const ResolvedTuning tuning = ResolveCpuTuning(config.cpu_tuning, *out->pool, CpuIsa::kAuto);
  out->tuning = tuning.note;
  LIFT_ASSIGN_OR_RETURN(DeviceChoice device,
                        MakeDevice(config.device, *out->pool, CpuIsa::kAuto, tuning.tuning));
  out->backend = std::move(device.backend);
  if (!device.note.empty())
    absl::StrAppend(&out->warning, out->warning.empty() ? "" : " ", device.note);
  Transformer::Options options;
  options.block_tokens = kBlockTokens;
  options.num_blocks = blocks;
  options.kv_format = *ParseKvFormat(config.kv_cache);
  options.reserve_tokens = config.prefill_chunk + config.max_batch;
  options.variants = kept;
  LIFT_ASSIGN_OR_RETURN(out->transformer,
                        Transformer::Create(out->weights, *out->backend, options));
  out->kept = kept;
  LIFT_ASSIGN_OR_RETURN(out->router, LoadRouter(config, *out->weights, kept));
  if (out->transformer->reusable_state()) {
    out->router.most_drafts = static_cast<int>(config.speculate);
  }
  out->model = std::make_unique<VariantSubset>(*out->transformer, std::move(kept));
  FillInfo(*out->weights, config.model, *out);
  // The engine takes whole blocks of it.
  const int64_t block_bytes = out->transformer->bytes_per_block();
  out->info.state_bytes +=
      static_cast<uint64_t>((config.swap_mb << 20) / block_bytes * block_bytes);
  out->info.kv_format = config.kv_cache;
  out->info.router_version = out->router.Version();
  out->info.state_bytes_per_token =
      out->transformer->bytes_per_block() / out->transformer->block_tokens();
  // What is not served need not stay, what is served is read in.
  std::vector<int> served(out->model->variants().size());
  std::iota(served.begin(), served.end(), 0);
  out->model->Retain(served);
  return out;
}

}  // namespace lift
