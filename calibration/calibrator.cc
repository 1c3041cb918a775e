#include "calibration/calibrator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "calibration/allocate.h"
#include "calibration/batches.h"
#include "calibration/codes.h"
#include "calibration/hessian_capture.h"
#include "calibration/journal.h"
#include "calibration/lift_tensor.h"
#include "calibration/measure.h"
#include "calibration/preset.h"
#include "calibration/progress.h"
#include "calibration/sensitivity.h"
#include "calibration/strips.h"
#include "calibration/variant_plan.h"
#include "calibration/weight_overrides.h"
#include "kernels/base/sha256.h"
#include "kernels/cpu/cpu_backend.h"
#include "nlohmann/json.hpp"
#include "server/model/model_layout.h"
#include "server/model/transformer.h"

namespace lift {
namespace {

constexpr int64_t kBatchTokens = 2048;

class Calibrator {
 public:
  explicit Calibrator(const CalibrationOptions& options)
      : options_(options),
        preset_(PresetOf(options.quality)),
        pool_(options.threads > 0 ? options.threads : AvailableCores()),
        backend_(MakeCpuBackend(pool_)),
        capture_(*backend_, pool_),
        start_(std::chrono::steady_clock::now()) {
    if (options.beam) preset_.beam = *options.beam;
    encoder_.beam = preset_.beam;
    encoder_.block = preset_.block;
    encoder_.lag = preset_.lag;
    encoder_.second_look = preset_.second_look;
  }

  absl::StatusOr<CalibrationResult> Run() {
    LIFT_RETURN_IF_ERROR(LoadInputs());
    LIFT_RETURN_IF_ERROR(PlanChain());
    LIFT_RETURN_IF_ERROR(MakeModel());
    LIFT_RETURN_IF_ERROR(OpenJournal());
    LIFT_RETURN_IF_ERROR(LiftLayers());
    LIFT_RETURN_IF_ERROR(LiftEnds());
    LIFT_RETURN_IF_ERROR(Allocate());
    LIFT_RETURN_IF_ERROR(Write());
    if (options_.measure) LIFT_RETURN_IF_ERROR(Measure());
    journal_->Remove();
    result_.seconds = Seconds();
    return result_;
  }

 private:
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  void EndPhase(const char* name) {
    const double now = Seconds();
    result_.phases.emplace_back(name, now - phase_start_);
    phase_start_ = now;
  }

  absl::Status LoadInputs() {
    LIFT_ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(options_.model_path));
    LIFT_ASSIGN_OR_RETURN(weights_, Weights::FromCheckpoint(checkpoint_));
    LIFT_ASSIGN_OR_RETURN(TokenizerSpec spec, LoadTokenizerSpec(*checkpoint_));
    tokenizer_json_ = spec.ToJson();
    LIFT_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Create(std::move(spec)));
    CalibrationDataOptions data = options_.data;
    data.context = std::min(data.context, checkpoint_->config().max_context);
    data.seed = options_.seed;
    LIFT_ASSIGN_OR_RETURN(data_, LoadCalibrationData(options_.calib_paths, *tokenizer_, data));
    for (const auto& sample : data_.samples) {
      for (int32_t id : sample) {
        if (id >= checkpoint_->config().vocab_size) {
          return absl::InvalidArgumentError(absl::StrCat("the tokenizer makes token ", id,
                                                         " but the model has ",
                                                         checkpoint_->config().vocab_size));
        }
      }
      result_.calibration_tokens += static_cast<int64_t>(sample.size());
    }
    data_.token_counts.resize(static_cast<size_t>(checkpoint_->config().vocab_size), 0);
    result_.warning = data_.warning;
    for (const auto& m : layout::Matrices(checkpoint_->config()))
      result_.weights += m.rows * m.cols;
    return absl::OkStatus();
  }

  absl::Status PlanChain() {
    const ModelConfig& config = checkpoint_->config();
    LIFT_ASSIGN_OR_RETURN(
        wanted_, PlanVariants(options_.variants, result_.weights, PlannedFixedBytes(config)));
    const auto strips = VocabularyStrips(data_.token_counts);
    result_.chain = options_.chain;
    if (result_.chain.empty())
      result_.chain = ChainForVariants(wanted_, result_.weights, PlannedCosts(config, {1}, strips));
    auto placed = wanted_;  // refused now rather than after the search
    return PlaceVariants(PlannedCosts(config, result_.chain, strips), result_.weights, placed);
  }

  // Stages of the given sizes; the same chain is the same object.
  const std::vector<StageSpec>& ChainOf(const std::vector<int>& sizes) {
    std::vector<StageSpec>& chain = chains_[sizes];
    if (chain.empty()) chain = MakeStages(sizes);
    return chain;
  }

  absl::Status MakeModel() {
    Transformer::Options model_options;
    const int64_t block_tokens =
        layout::StateBlockTokens(checkpoint_->config(), model_options.block_tokens);
    const int64_t longest = static_cast<int64_t>(
        std::max_element(data_.samples.begin(), data_.samples.end(), [](auto& a, auto& b) {
          return a.size() < b.size();
        })->size());
    const int64_t per_batch = std::max<int64_t>(1, kBatchTokens / longest);
    for (size_t i = 0; i < data_.samples.size(); i += static_cast<size_t>(per_batch)) {
      const size_t n = std::min(data_.samples.size() - i, static_cast<size_t>(per_batch));
      batches_.push_back(
          std::make_unique<SampleBatch>(std::span(data_.samples).subspan(i, n), block_tokens));
      model_options.num_blocks = std::max(model_options.num_blocks, batches_.back()->blocks());
    }
    LIFT_ASSIGN_OR_RETURN(model_, Transformer::Create(weights_, *backend_, model_options));
    hidden_.resize(batches_.size());
    for (size_t b = 0; b < batches_.size(); ++b) model_->Embed(batches_[b]->chunks(), hidden_[b]);
    EndPhase("load");
    return absl::OkStatus();
  }

  // Everything that decides the lifted tensors.
  std::string Fingerprint() {
    Sha256 hash;
    const auto add = [&](std::string_view bytes) {
      hash.Update(std::as_bytes(std::span(bytes.data(), bytes.size())));
    };
    add(absl::StrCat("lifted tensors 3 ", checkpoint_->source_sha256(), " ", options_.seed, " ",
                     encoder_.beam, " ", encoder_.block, " ", encoder_.lag, " ", encoder_.seam, " ",
                     encoder_.second_look, " ", options_.prefix_bits));
    for (const StageSpec& stage : ChainOf(result_.chain)) {
      add(absl::StrCat(" ", stage.code.name, " ", stage.damping, " ", stage.scale, " ",
                       stage.from_middle, ":", absl::StrJoin(stage.code.taps, ",")));
    }
    for (const auto& sample : data_.samples) hash.Update(std::as_bytes(std::span(sample)));
    hash.Update(std::as_bytes(std::span(data_.token_counts)));
    return hash.HexDigest();
  }

  absl::Status OpenJournal() {
    const std::string path = options_.out_path + ".journal";
    if (!options_.resume) std::filesystem::remove(path);
    LIFT_ASSIGN_OR_RETURN(journal_, Journal::Open(path, Fingerprint()));
    if (journal_->size() > 0 && options_.show_progress)
      std::fprintf(stderr, "going on after %zu lifted tensors of an interrupted run\n",
                   journal_->size());
    return absl::OkStatus();
  }

  // Lifts the tensors that read one input. Without a hessian: no data (an embedding look-up), every
  // direction counts alike. strips: rows that are lifted apart, each with a chain of its own.
  absl::Status LiftSiteTensors(const std::vector<std::string>& names,
                               std::optional<Hessian> hessian, int64_t layer, int kind,
                               std::span<const Strip> strips = {}) {
    const int64_t cols = checkpoint_->Find(names[0])->cols, padded = PaddedColumns(cols);
    const RotationSpec spec{true, options_.seed * 0x9E3779B97F4A7C15u + rotations_.size()};
    rotations_.push_back(std::make_unique<Rotation>(spec, cols));
    const Rotation& rotation = *rotations_.back();
    std::optional<SiteMetric> metric;  // once a part is not in the journal
    const auto make_metric = [&] {
      if (!hessian) hessian.emplace(cols);
      metric.emplace(std::move(*hessian).Rotated(rotation, padded, pool_), padded, cols,
                     encoder_.seam, names.size() > 1 || !strips.empty(), *backend_, pool_);
      hessian.reset();
    };
    for (const std::string& name : names) {
      const DenseMatrixView view = *checkpoint_->Find(name);
      const int64_t rows = view.rows;
      const Strip whole{0, rows, 1.0};
      const std::span<const Strip> parts = strips.empty() ? std::span(&whole, 1) : strips;
      ProbedMatrix matrix{{name, layer, kind++, rows, cols, 0}, tensors_.size(), {}};
      double left = 0, energy = 0;
      for (const Strip& strip : parts) {
        const auto& chain = ChainOf(StripChain(result_.chain, strip.weight));
        const std::string part =
            parts.size() == 1 ? name : StripName(name, static_cast<int>(&strip - parts.data()));
        const DenseMatrixView source{view.type, strip.rows, cols, view.row(strip.begin)};
        tensors_.push_back({{}, {}, &rotation, &chain, source});
        LiftedTensorBits& lifted = tensors_.back().bits;
        if (journal_->Has(part)) {
          LIFT_ASSIGN_OR_RETURN(lifted, journal_->Read(part));
        } else {
          if (!metric) make_metric();
          lifted = LiftTensor(part, DenseValues(source), strip.rows, cols, rotation, spec, *metric,
                              chain, encoder_, *backend_, pool_);
          LIFT_RETURN_IF_ERROR(journal_->Append(lifted));
        }
        for (LiftedStageBits& stage : lifted.stages) {  // the journal has them
          tensors_.back().stage_bytes.push_back(stage.planes.size());
          stage.planes = {};
        }
        // What the strip adds to the error of the matrix's use.
        matrix.shares.push_back(strip.weight * lifted.energy * lifted.error[1]);
        left += matrix.shares.back();
        energy += strip.weight * lifted.energy;
      }
      for (double& share : matrix.shares) share /= std::max(left, 1e-30);
      matrix.probed.error = energy > 0 ? left / energy : 0.0;
      probed_.push_back(std::move(matrix));
    }
    return absl::OkStatus();
  }

  // Takes the hidden states through the layer as lifted, so that later layers are fitted to inputs
  // with the errors of earlier ones. first: of the layer's in probed_.
  absl::Status RunLifted(int64_t layer, size_t first) {
    size_t stages = 0;
    for (int bits = 0; bits < options_.prefix_bits && stages < result_.chain.size(); ++stages)
      bits += result_.chain[stages];
    WeightOverrides lifted(*weights_);
    for (size_t i = first; i < probed_.size(); ++i) {
      const auto& [probed, part, shares] = probed_[i];
      LIFT_ASSIGN_OR_RETURN(const LiftedTensorBits bits, journal_->Read(tensors_[part].bits.name));
      ReconstructTensor(bits, *tensors_[part].chain, stages, *tensors_[part].rotation, pool_,
                        lifted.Add(probed.name, static_cast<size_t>(bits.rows * bits.cols)));
    }
    model_->set_observer(nullptr);
    for (size_t b = 0; b < batches_.size(); ++b)
      model_->RunLayer(layer, batches_[b]->chunks(), hidden_[b]);
    model_->set_observer(&capture_);
    return absl::OkStatus();
  }

  absl::Status LiftLayers() {
    Progress progress("lifting layers", options_.show_progress);
    const int64_t layers = checkpoint_->config().num_layers;
    model_->set_observer(&capture_);
    for (int64_t layer = 0; layer < layers; ++layer) {
      capture_.Clear();
      const size_t first = probed_.size();
      for (size_t b = 0; b < batches_.size(); ++b) {
        std::vector<float> inputs;
        if (options_.prefix_bits > 0) inputs = hidden_[b];
        model_->RunLayer(layer, batches_[b]->chunks(),
                         options_.prefix_bits > 0 ? inputs : hidden_[b]);
      }
      int kind = 0;
      for (const layout::SiteSpec& site :
           layout::LayerNames(checkpoint_->config(), layer).Sites()) {
        auto hessian = capture_.Take(site.name);  // none: an expert no token chose
        if (!hessian) unseen_.push_back(site.name);
        LIFT_RETURN_IF_ERROR(LiftSiteTensors(site.matrices, std::move(hessian), layer, kind));
        kind += static_cast<int>(site.matrices.size());
      }
      if (options_.prefix_bits > 0) LIFT_RETURN_IF_ERROR(RunLifted(layer, first));
      checkpoint_->LeaveResidentSet();
      progress.Update(layer + 1, layers);
    }
    model_->set_observer(nullptr);
    if (!unseen_.empty()) {
      absl::StrAppend(&result_.warning, result_.warning.empty() ? "" : " ", unseen_.size(),
                      " expert inputs (first: ", unseen_[0],
                      ") saw no calibration token and were lifted without data; give more text.");
    }
    EndPhase("lift layers");
    return absl::OkStatus();
  }

  // Output head (its inputs are the normalised final states) and embedding.
  absl::Status LiftEnds() {
    const ModelConfig& config = checkpoint_->config();
    Hessian head(config.hidden_size);
    for (size_t b = 0; b < batches_.size(); ++b) {
      const int64_t tokens = batches_[b]->tokens();
      model_->FinalNorm(hidden_[b].data(), tokens, hidden_[b].data());
      head.Accumulate(*backend_, pool_, hidden_[b].data(), tokens);
    }
    hidden_.clear();
    // A tied matrix is also looked up row by row, where every direction counts alike.
    if (config.tie_embeddings) head.AddIdentity(1.0);
    const std::vector<Strip> strips = VocabularyStrips(data_.token_counts);
    LIFT_RETURN_IF_ERROR(
        LiftSiteTensors({layout::HeadName(config)}, std::move(head), -1, 0, strips));
    if (!config.tie_embeddings)
      LIFT_RETURN_IF_ERROR(LiftSiteTensors({layout::kEmbedding}, std::nullopt, -1, 1, strips));
    EndPhase("lift embedding and head");
    return absl::OkStatus();
  }

  absl::Status Allocate() {
    Progress progress("probing sensitivities", options_.show_progress);
    std::vector<std::vector<int32_t>> probes;
    int64_t tokens = 0;
    for (size_t i = 0; i < data_.samples.size() && tokens < preset_.probe_tokens; ++i) {
      probes.push_back(
          data_.samples[i * data_.samples.size() /
                        std::max<size_t>(1, std::min<size_t>(8, data_.samples.size())) %
                        data_.samples.size()]);
      probes.back().resize(std::min<size_t>(
          probes.back().size(), static_cast<size_t>(std::min<int64_t>(128, preset_.probe_tokens))));
      tokens += static_cast<int64_t>(probes.back().size());
    }
    absl::Status unreadable;
    const TensorWriter reconstruct = [&](size_t i, float* out) {
      const ProbedMatrix& matrix = probed_[i];
      for (size_t k = 0; k < matrix.shares.size(); ++k) {
        const LiftedPart& part = tensors_[matrix.first + k];
        const absl::StatusOr<LiftedTensorBits> bits = journal_->Read(part.bits.name);
        unreadable.Update(bits.status());
        if (!bits.ok()) return;
        ReconstructTensor(*bits, *part.chain, 1, *part.rotation, pool_, out);
        out += bits->rows * bits->cols;
      }
    };
    const TensorWriter original = [&](size_t i, float* out) {
      const std::vector<float> w = DenseValues(*checkpoint_->Find(probed_[i].probed.name));
      std::copy(w.begin(), w.end(), out);
    };
    std::vector<ProbedTensor> probed;
    for (const ProbedMatrix& matrix : probed_) probed.push_back(matrix.probed);
    const std::vector<double> sensitivity = MeasureSensitivities(
        *model_, *weights_, pool_, probes, probed, reconstruct, original, {preset_.per_tensor},
        [&](int64_t done, int64_t total) { progress.Update(done, total); });
    LIFT_RETURN_IF_ERROR(unreadable);
    for (size_t i = 0; i < probed_.size(); ++i) {
      const double kl = sensitivity[i] * probed_[i].probed.error;
      for (size_t k = 0; k < probed_[i].shares.size(); ++k) {
        const LiftedPart& part = tensors_[probed_[i].first + k];
        costs_.push_back({part.bits.name, part.stage_bytes, part.bits.error,
                          kl * probed_[i].shares[k] / std::max(part.bits.error[1], 1e-9)});
      }
    }
    order_ = GlobalPlaneOrder(costs_);
    LIFT_RETURN_IF_ERROR(PlaceVariants(costs_, result_.weights, wanted_));
    DropUnused(wanted_, order_, costs_);
    EndPhase("allocate");
    return absl::OkStatus();
  }

  std::string ReportJson() const {
    const nlohmann::json report = {
        {"chain", result_.chain},          {"calibration_tokens", result_.calibration_tokens},
        {"samples", data_.samples.size()}, {"seed", options_.seed},
        {"beam", encoder_.beam},           {"tensors", CostsJson(costs_)}};
    return report.dump();
  }

  absl::Status Write() {
    writer_ = std::make_unique<LiftedFileWriter>();
    result_.source_sha256 = checkpoint_->source_sha256();
    writer_->SetModelConfig(checkpoint_->config().ToJson());
    writer_->SetTokenizer(tokenizer_json_);
    writer_->SetSourceSha256(result_.source_sha256);
    writer_->SetReport(ReportJson());
    for (const auto& v : layout::Vectors(checkpoint_->config())) {
      const std::span<const float> values = weights_->GetVector(v.name);
      writer_->AddVector(v.name, {values.begin(), values.end()});
    }
    std::map<std::string, int> code_index;
    for (const auto& [sizes, chain] : chains_) {
      for (const StageSpec& stage : chain) {
        if (!code_index.count(stage.code.name))
          code_index[stage.code.name] = writer_->AddCode(stage.code);
      }
    }
    const bool keep_source =
        std::any_of(wanted_.begin(), wanted_.end(), [](const LiftedVariant& v) { return v.full; });
    LIFT_ASSIGN_OR_RETURN(const auto map, MappedFile::Open(journal_->path()));
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const LiftedPart& part = tensors_[i];
      const LiftedTensorBits& tensor = part.bits;
      const auto planes = journal_->Planes(tensor.name, *map);
      std::vector<LiftedFileWriter::StageData> stages;
      for (size_t j = 0; j < costs_[i].stage_bytes.size(); ++j) {
        stages.push_back(
            {code_index[(*part.chain)[j].code.name], tensor.stages[j].gain, planes[j], map});
      }
      writer_->AddTensor(tensor.name, tensor.rows, tensor.cols, tensor.rotation, tensor.row_scale,
                         std::move(stages),
                         keep_source ? std::optional(part.source) : std::nullopt);
    }
    writer_->SetPlaneOrder(order_);
    LIFT_ASSIGN_OR_RETURN(const auto file, WriteVariants());
    LIFT_ASSIGN_OR_RETURN(const bool shrunk, FitBudgets(*file, wanted_));
    if (shrunk) LIFT_RETURN_IF_ERROR(WriteVariants().status());
    EndPhase("write");
    return absl::OkStatus();
  }

  // The file with `wanted_` as it is now, read back.
  absl::StatusOr<std::shared_ptr<const LiftedFile>> WriteVariants() {
    writer_->SetVariants(wanted_);
    LIFT_RETURN_IF_ERROR(writer_->Finish(options_.out_path));
    LIFT_ASSIGN_OR_RETURN(auto file, LiftedFile::Open(options_.out_path));
    result_.variants.assign(file->variants().begin(), file->variants().end());
    return file;
  }

  absl::Status Measure() {
    const MeasureRequest request{options_.out_path,    options_.model_path,   options_.eval_path,
                                 data_.held_out,       data_.sources,         options_.eval_context,
                                 options_.eval_tokens, options_.show_progress};
    model_.reset();
    LIFT_ASSIGN_OR_RETURN(Measurement measured,
                          MeasureVariants(request, *tokenizer_, *backend_, pool_));
    for (size_t i = 0; i < wanted_.size(); ++i) {
      wanted_[i].kl = measured.kl[i];
      wanted_[i].perplexity = measured.perplexity[i];
    }
    result_.reference = measured.reference;
    result_.eval_tokens = measured.tokens;
    result_.sources = std::move(measured.sources);
    if (const std::string unlike = UnlikeWarning(data_, measured.text); !unlike.empty())
      absl::StrAppend(&result_.warning, result_.warning.empty() ? "" : ". ", unlike);
    LIFT_RETURN_IF_ERROR(WriteVariants().status());
    EndPhase("measure");
    return absl::OkStatus();
  }

  const CalibrationOptions& options_;
  QualityPreset preset_;
  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;
  HessianCapture capture_;
  EncoderOptions encoder_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::shared_ptr<Weights> weights_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string tokenizer_json_;
  CalibrationData data_;
  std::vector<LiftedVariant> wanted_;
  std::map<std::vector<int>, std::vector<StageSpec>> chains_;
  std::unique_ptr<Transformer> model_;
  std::vector<std::unique_ptr<SampleBatch>> batches_;
  std::vector<std::vector<float>> hidden_;
  std::vector<std::unique_ptr<Rotation>> rotations_;
  struct LiftedPart {       // a whole matrix or a strip of its rows
    LiftedTensorBits bits;  // without planes, which the journal has
    std::vector<uint64_t> stage_bytes;
    const Rotation* rotation;
    const std::vector<StageSpec>* chain;
    DenseMatrixView source;
  };
  struct ProbedMatrix {
    ProbedTensor probed;
    size_t first;                // of its parts in tensors_
    std::vector<double> shares;  // of each part in the matrix's error, 1 in all
  };
  std::vector<LiftedPart> tensors_;
  std::vector<ProbedMatrix> probed_;
  std::unique_ptr<Journal> journal_;
  std::vector<std::string> unseen_;  // sites that no calibration token reached
  std::vector<TensorCost> costs_;
  std::vector<PlaneUnit> order_;
  std::unique_ptr<LiftedFileWriter> writer_;
  CalibrationResult result_;
  std::chrono::steady_clock::time_point start_;
  double phase_start_ = 0;
};

}  // namespace

absl::StatusOr<CalibrationResult> Calibrate(const CalibrationOptions& options) {
  return Calibrator(options).Run();
}

}  // namespace lift
