#include "calibration/sensitivity.h"

#include <algorithm>
#include <map>
#include <memory>

#include "calibration/batches.h"
#include "calibration/eval/logit_stats.h"
#include "calibration/weight_overrides.h"

namespace lift {
namespace {

// Logits of the probed positions with their row statistics.
struct ProbeLogits {
  std::vector<float> logits;      // [rows, vocab]
  std::vector<LogitStats> stats;  // [rows]
  std::span<const float> Row(size_t r) const {
    const size_t vocab = logits.size() / stats.size();
    return std::span(logits).subspan(r * vocab, vocab);
  }
};

double MeanKl(const ProbeLogits& reference, const ProbeLogits& other, ThreadPool& pool) {
  const size_t rows = reference.stats.size();
  std::vector<double> kl(rows);
  pool.ParallelFor(static_cast<int64_t>(rows), 4, [&](int64_t begin, int64_t end, int) {
    for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r) {
      kl[r] = KlDivergence(reference.Row(r), reference.stats[r], other.Row(r), other.stats[r]);
    }
  });
  double total = 0;
  for (double x : kl) total += x;
  return std::max(total / static_cast<double>(rows), 1e-12);
}

// Runs the probes: the unperturbed hidden state before every layer is kept, so a probe starts at
// the first layer it changes.
class Prober {
 public:
  Prober(Transformer& model, Weights& weights, ThreadPool& pool,
         std::span<const std::vector<int32_t>> samples, double blend,
         const TensorWriter& reconstruct, const TensorWriter& original,
         std::span<const ProbedTensor> tensors)
      : model_(model),
        weights_(weights),
        pool_(pool),
        batch_(samples, model.block_tokens()),
        blend_(static_cast<float>(blend)),
        reconstruct_(reconstruct),
        original_(original),
        tensors_(tensors),
        layers_(weights.config().num_layers) {
    hidden_.resize(static_cast<size_t>(layers_) + 1);
    model_.Embed(batch_.chunks(), hidden_[0]);
    for (int64_t layer = 0; layer < layers_; ++layer) {
      hidden_[static_cast<size_t>(layer) + 1] = hidden_[static_cast<size_t>(layer)];
      RunLayer(layer, hidden_[static_cast<size_t>(layer) + 1]);
    }
    reference_ = Logits(hidden_[static_cast<size_t>(layers_)]);
  }

  // KL when these tensors are perturbed together.
  double Probe(const std::vector<size_t>& which) {
    std::map<int64_t, std::vector<size_t>> by_layer;  // -1: embedding and head
    for (size_t i : which) by_layer[std::max<int64_t>(tensors_[i].layer, -1)].push_back(i);
    const bool ends = by_layer.contains(-1);
    WeightOverrides of_ends(weights_);
    Perturb(by_layer[-1], of_ends);
    int64_t first = layers_;
    for (size_t i : which) first = std::min(first, std::max<int64_t>(tensors_[i].layer, 0));
    std::vector<float> hidden = hidden_[static_cast<size_t>(first)];
    if (ends) model_.Embed(batch_.chunks(), hidden);
    for (int64_t layer = first; layer < layers_; ++layer) {
      WeightOverrides of_layer(weights_);  // one layer's in memory at a time
      Perturb(by_layer[layer], of_layer);
      RunLayer(layer, hidden);
    }
    return MeanKl(reference_, Logits(hidden), pool_);
  }

 private:
  void RunLayer(int64_t layer, std::vector<float>& hidden) {
    model_.RunLayer(layer, batch_.chunks(), hidden);
    weights_.checkpoint()->LeaveResidentSet();
  }

  // Replaces these tensors by a blend with their reconstruction.
  void Perturb(const std::vector<size_t>& which, WeightOverrides& overrides) {
    for (size_t i : which) {
      const ProbedTensor& t = tensors_[i];
      const size_t n = static_cast<size_t>(t.rows * t.cols);
      const std::unique_ptr<float[]> source = std::make_unique_for_overwrite<float[]>(n);
      original_(i, source.get());
      float* v = overrides.Add(t.name, n);
      reconstruct_(i, v);
      for (size_t j = 0; j < n; ++j) v[j] = source[j] + blend_ * (v[j] - source[j]);
    }
  }

  ProbeLogits Logits(const std::vector<float>& hidden) {
    const std::vector<uint8_t> variants(static_cast<size_t>(batch_.tokens()), 0);
    ProbeLogits out;
    model_.Head(hidden.data(), batch_.tokens(), variants, out.logits);
    out.stats.resize(variants.size());
    pool_.ParallelFor(batch_.tokens(), 4, [&](int64_t begin, int64_t end, int) {
      for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r) {
        out.stats[r] = ComputeLogitStats(out.Row(r));
      }
    });
    return out;
  }

  Transformer& model_;
  Weights& weights_;
  ThreadPool& pool_;
  SampleBatch batch_;
  float blend_;
  const TensorWriter &reconstruct_, &original_;
  std::span<const ProbedTensor> tensors_;
  int64_t layers_;
  std::vector<std::vector<float>> hidden_;
  ProbeLogits reference_;
};

// Contributions c[layer, kind] with the measured row and column sums, starting from the tensors'
// own errors.
void FitProportionally(std::span<const ProbedTensor> tensors,
                       const std::map<int64_t, double>& by_layer,
                       const std::map<int, double>& by_kind, std::vector<double>& contribution) {
  double layer_total = 0, kind_total = 0;
  for (const auto& [layer, kl] : by_layer) layer_total += kl;
  for (const auto& [kind, kl] : by_kind) kind_total += kl;
  const auto scale_to = [&](auto key, const auto& wanted, double total) {
    for (const auto& [k, kl] : wanted) {
      double sum = 0;
      for (size_t i = 0; i < tensors.size(); ++i)
        sum += tensors[i].layer >= 0 && key(tensors[i]) == k ? contribution[i] : 0;
      for (size_t i = 0; i < tensors.size() && sum > 0; ++i) {
        if (tensors[i].layer >= 0 && key(tensors[i]) == k) contribution[i] *= kl / total / sum;
      }
    }
  };
  for (int round = 0; round < 20; ++round) {
    scale_to([](const ProbedTensor& t) { return t.kind; }, by_kind, kind_total);
    scale_to([](const ProbedTensor& t) { return t.layer; }, by_layer, layer_total);
  }
  // Layer probes are the smaller perturbations, so their sum is the better estimate of the total.
  for (size_t i = 0; i < tensors.size(); ++i)
    contribution[i] *= tensors[i].layer >= 0 ? layer_total : 1.0;
}

}  // namespace

std::vector<double> MeasureSensitivities(Transformer& model, Weights& weights, ThreadPool& pool,
                                         std::span<const std::vector<int32_t>> samples,
                                         std::span<const ProbedTensor> tensors,
                                         const TensorWriter& reconstruct,
                                         const TensorWriter& original,
                                         const SensitivityOptions& options,
                                         const std::function<void(int64_t, int64_t)>& progress) {
  Prober prober(model, weights, pool, samples, options.blend, reconstruct, original, tensors);
  std::map<int64_t, std::vector<size_t>> layers;
  std::map<int, std::vector<size_t>> kinds;
  std::vector<std::vector<size_t>> singles;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].layer < 0 || options.per_tensor) {
      singles.push_back({i});
    } else {
      layers[tensors[i].layer].push_back(i);
      kinds[tensors[i].kind].push_back(i);
    }
  }
  const int64_t total = static_cast<int64_t>(singles.size() + layers.size() + kinds.size());
  int64_t done = 0;
  const auto probe = [&](const std::vector<size_t>& which) {
    const double kl = prober.Probe(which);
    progress(++done, total);
    return kl;
  };
  std::vector<double> contribution(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) contribution[i] = std::max(tensors[i].error, 1e-9);
  for (const auto& which : singles) contribution[which[0]] = probe(which);
  if (!layers.empty()) {
    std::map<int64_t, double> by_layer;
    std::map<int, double> by_kind;
    for (const auto& [layer, which] : layers) by_layer[layer] = probe(which);
    for (const auto& [kind, which] : kinds) by_kind[kind] = probe(which);
    FitProportionally(tensors, by_layer, by_kind, contribution);
  }
  // KL of a blended error is blend^2 times that of the whole.
  for (size_t i = 0; i < tensors.size(); ++i) {
    contribution[i] /= options.blend * options.blend * std::max(tensors[i].error, 1e-9);
  }
  return contribution;
}

}  // namespace lift
