#include "calibration/router/fit.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "calibration/router/drafts.h"
#include "kernels/base/mapped_file.h"

namespace lift {
namespace {

using nlohmann::json;
using router::FeatureVector;
using router::Predictor;

constexpr double kLeastKl = 1e-7;  // nats; logarithms of less are noise
constexpr size_t kFewestPrompts = 100;
constexpr size_t kQuantiles = 65, kBins = 10, kFeaturesListed = 5;

double LogKl(const PromptTrace& prompt, size_t variant) {
  return std::log(std::max(prompt.MeanKl(variant), kLeastKl));
}

double Mean(const std::vector<double>& v) {
  return std::accumulate(v.begin(), v.end(), 0.0) /
         static_cast<double>(std::max<size_t>(1, v.size()));
}

std::vector<double> Ranks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t first = 0; first < order.size();) {
    size_t end = first;
    while (end < order.size() && values[order[end]] == values[order[first]]) ++end;
    for (size_t i = first; i < end; ++i) ranks[order[i]] = static_cast<double>(first + end - 1) / 2;
    first = end;
  }
  return ranks;
}

using Groups = std::map<std::string, std::vector<size_t>>;

// Prompts that share a label; those without one stand for themselves.
Groups GroupBy(const TraceSet& traces, std::string PromptTrace::*label) {
  Groups groups;
  for (size_t i = 0; i < traces.prompts.size(); ++i) {
    const std::string& name = traces.prompts[i].*label;
    groups[name.empty() ? absl::StrCat("#", i) : name].push_back(i);
  }
  return groups;
}

// Which fold each prompt is left out in. Groups stay together; large ones are placed first.
std::vector<int> Folds(const TraceSet& traces, std::string PromptTrace::*label, int folds) {
  const Groups by_name = GroupBy(traces, label);
  std::vector<const std::vector<size_t>*> groups;
  for (const auto& [name, prompts] : by_name) groups.push_back(&prompts);
  std::stable_sort(groups.begin(), groups.end(),
                   [](const auto* a, const auto* b) { return a->size() > b->size(); });
  std::vector<size_t> sizes(static_cast<size_t>(folds));
  std::vector<int> fold(traces.prompts.size());
  for (const auto* group : groups) {
    const auto smallest = std::min_element(sizes.begin(), sizes.end());
    *smallest += group->size();
    for (const size_t i : *group) fold[i] = static_cast<int>(smallest - sizes.begin());
  }
  return fold;
}

// What may only raise (lower) harm: a model that is unsure of its first word, text that is not
// English, a coarse variant that goes astray at once.
BoostOptions WithMonotone(BoostOptions options) {
  const auto names = router::FeatureNames();
  for (size_t f = 0; f < names.size(); ++f) {
    if (names[f] == "last_entropy" || names[f] == "non_ascii" || names[f] == "probe") {
      options.monotone[f] = 1;
    }
    if (names[f] == "last_margin") options.monotone[f] = -1;
  }
  return options;
}

class Trainer {
 public:
  Trainer(const TraceSet& traces, const FitOptions& options)
      : traces_(traces),
        options_(options),
        harm_(TrueHarm(traces)),
        fold_(Folds(traces, &PromptTrace::source, options.folds)) {
    options_.boost = WithMonotone(options_.boost);
    options_.boost.trees = options.max_trees;
    for (const PromptTrace& p : traces.prompts) x_.push_back(router::Features(p.text, p.prefill));
  }

  Fit Run() {
    const std::vector<double> errors = OutOfFold(options_.boost, fold_, predicted_);
    trees_ = static_cast<int>(std::min_element(errors.begin(), errors.end()) - errors.begin()) + 1;
    BoostOptions boost = options_.boost;
    boost.trees = trees_;
    OutOfFold(boost, fold_, predicted_);
    OutOfFold(boost, Folds(traces_, &PromptTrace::kind, options_.folds), strange_);
    model_ = Boost(x_, harm_, boost);
    Fit fit;
    fit.report = Report();
    fit.predictor = Assemble(fit.report);
    return fit;
  }

 private:
  // Predictions of each prompt by trees that saw nothing of its source, after all trees; returns
  // the squared error after 1, 2, ... of them.
  std::vector<double> OutOfFold(const BoostOptions& boost, const std::vector<int>& folds,
                                std::vector<double>& predicted) const {
    std::vector<double> errors(static_cast<size_t>(boost.trees));
    predicted.assign(x_.size(), 0);
    for (int fold = 0; fold < options_.folds; ++fold) {
      std::vector<FeatureVector> x;
      std::vector<double> y;
      for (size_t i = 0; i < x_.size(); ++i) {
        if (folds[i] != fold) x.push_back(x_[i]), y.push_back(harm_[i]);
      }
      const BoostedTrees model = Boost(x, y, boost);
      for (size_t i = 0; i < x_.size(); ++i) {
        if (folds[i] != fold) continue;
        double sum = model.base;
        for (size_t t = 0; t < model.trees.size(); ++t) {
          sum += Predictor::ValueOf(model.trees[t], x_[i]);
          errors[t] += (sum - harm_[i]) * (sum - harm_[i]);
        }
        predicted[i] = sum;
      }
    }
    return errors;
  }

  FitReport Report() const {
    FitReport report;
    report.prompts = static_cast<int64_t>(x_.size());
    for (const PromptTrace& p : traces_.prompts) report.positions += p.positions;
    report.trees = trees_;
    report.rank_correlation = RankCorrelation(predicted_, harm_);
    double square = 0;
    for (const double h : harm_) square += h * h;
    report.spread = std::sqrt(square / static_cast<double>(harm_.size()));
    for (size_t v = 0; v + 1 < traces_.variants.size(); ++v) {
      std::vector<double> kl;
      for (const PromptTrace& p : traces_.prompts) kl.push_back(p.MeanKl(v));
      report.kl_rank_correlation.push_back(RankCorrelation(predicted_, kl));
    }
    AddFeatures(report);
    return report;
  }

  void AddFeatures(FitReport& report) const {
    const double total = std::accumulate(model_.gain.begin(), model_.gain.end(), 0.0);
    std::vector<size_t> order(router::kFeatureCount);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return model_.gain[a] > model_.gain[b]; });
    for (size_t k = 0; k < kFeaturesListed && model_.gain[order[k]] > 0; ++k) {
      BoostOptions boost = options_.boost;
      boost.trees = trees_;
      boost.unused |= uint64_t{1} << order[k];
      std::vector<double> predicted;
      OutOfFold(boost, fold_, predicted);
      report.features.push_back({std::string(router::FeatureNames()[order[k]]),
                                 model_.gain[order[k]] / total, RankCorrelation(predicted, harm_)});
    }
  }

  // Nats of true harm for one of predicted harm.
  double SlopeOf(const std::vector<double>& predicted) const {
    const double mean = Mean(predicted);
    double covariance = 0, variance = 0;
    for (size_t i = 0; i < harm_.size(); ++i) {
      covariance += (predicted[i] - mean) * harm_[i];
      variance += (predicted[i] - mean) * (predicted[i] - mean);
    }
    return std::clamp(variance > 0 ? covariance / variance : 0, 0.0, 10.0);
  }

  // log KL of each variant as a line in predicted harm, moved so that the mean over all prompts of
  // exp(line) is their true mean KL. One slope for all: a query of more harm then never gets fewer
  // bits. It is half-way (by logarithm)
  // between what is right for new sources and for new kinds of prompts: kinds that nobody thought
  // of will come, and there a router that believes itself loses to one precision for all.
  std::vector<Predictor::Knot> Curve() const {
    const double slope = std::sqrt(SlopeOf(predicted_) * SlopeOf(strange_));
    double predicted_kl = 0;
    for (const double h : predicted_) predicted_kl += std::exp(slope * h);
    std::vector<Predictor::Knot> curve;
    for (size_t v = 0; v + 1 < traces_.variants.size(); ++v) {
      double true_kl = 0;
      for (const PromptTrace& p : traces_.prompts) true_kl += p.MeanKl(v);
      curve.push_back({traces_.variants[v].bits_per_weight,
                       std::log(std::max(true_kl, kLeastKl) / predicted_kl), slope});
    }
    return curve;
  }

  void AddReliability(const Predictor& predictor, FitReport& report) const {
    std::vector<size_t> order(x_.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return std::pair(predicted_[a], a) < std::pair(predicted_[b], b);
    });
    const size_t coarser = traces_.variants.size() - 1;
    for (size_t bin = 0; bin < kBins; ++bin) {
      const size_t first = bin * order.size() / kBins, end = (bin + 1) * order.size() / kBins;
      double log_predicted = 0, log_measured = 0;
      for (size_t v = 0; v < coarser; ++v) {
        double predicted = 0, measured = 0;
        for (size_t i = first; i < end; ++i) {
          const double h = std::clamp(predicted_[order[i]], predictor.quantiles().front(),
                                      predictor.quantiles().back());
          predicted += predictor.ExpectedKl(h, traces_.variants[v].bits_per_weight);
          measured += traces_.prompts[order[i]].MeanKl(v);
        }
        report.calibration_error += std::abs(predicted / std::max(measured, kLeastKl) - 1);
        const auto rows = static_cast<double>(end - first);
        log_predicted += std::log(std::max(predicted / rows, kLeastKl));
        log_measured += std::log(std::max(measured / rows, kLeastKl));
      }
      const auto count = static_cast<double>(coarser);
      report.reliability.push_back(
          {std::exp(log_predicted / count), std::exp(log_measured / count)});
    }
    report.calibration_error /= static_cast<double>(kBins * coarser);
  }

  std::shared_ptr<const Predictor> Assemble(FitReport& report) const {
    Predictor::Parts parts;
    parts.base = model_.base;
    parts.trees = model_.trees;
    parts.curve = Curve();
    parts.finest_bits = traces_.variants.back().bits_per_weight;
    const bool probed = std::any_of(traces_.prompts.begin(), traces_.prompts.end(),
                                    [](const PromptTrace& p) { return p.prefill.probe_kl >= 0; });
    if (probed) parts.probe_bits = traces_.variants.front().bits_per_weight;
    std::vector<double> sorted = predicted_;
    std::sort(sorted.begin(), sorted.end());
    for (size_t q = 0; q < kQuantiles; ++q) {
      parts.quantiles.push_back(sorted[q * (sorted.size() - 1) / (kQuantiles - 1)]);
    }
    auto predictor = Predictor::Create(parts);
    LIFT_CHECK(predictor.ok());
    std::vector<double> kl;
    for (const TraceVariant& v : traces_.variants) {
      kl.push_back((*predictor)->ExpectedKl(0, v.bits_per_weight));
    }
    const WrongGuesses wrong = FitWrongGuesses(traces_, kl);
    parts.wrong_scale = wrong.scale;
    parts.wrong_power = wrong.power;
    report.guess_error = wrong.error;
    predictor = Predictor::Create(parts);
    LIFT_CHECK(predictor.ok());
    AddReliability(**predictor, report);
    parts.report = ReportJson(report).dump();
    const std::string document = (*predictor)->ToJson();
    parts.version =
        absl::StrCat("trained-", Sha256Hex(std::as_bytes(std::span(document))).substr(0, 12));
    predictor = Predictor::Create(std::move(parts));
    return *predictor;
  }

  json ReportJson(const FitReport& r) const {
    json features = json::array(), reliability = json::array(), kl = json::object();
    for (const FeatureUse& f : r.features) {
      features.push_back(
          {{"name", f.name}, {"gain", f.gain}, {"rank_correlation_without", f.without}});
    }
    for (const auto& bin : r.reliability) reliability.push_back({bin.predicted, bin.measured});
    for (size_t v = 0; v < r.kl_rank_correlation.size(); ++v) {
      kl[traces_.variants[v].name] = r.kl_rank_correlation[v];
    }
    return {{"prompts", r.prompts},
            {"positions", r.positions},
            {"trees", r.trees},
            {"temperature", traces_.temperature},
            {"weights_sha256", traces_.weights_sha256},
            {"rank_correlation", r.rank_correlation},
            {"kl_rank_correlation", std::move(kl)},
            {"harm_spread", r.spread},
            {"calibration_error", r.calibration_error},
            {"guess_error", r.guess_error},
            {"reliability", std::move(reliability)},
            {"features", std::move(features)}};
  }

  const TraceSet& traces_;
  FitOptions options_;
  std::vector<double> harm_;
  std::vector<int> fold_;
  std::vector<FeatureVector> x_;
  std::vector<double> predicted_;  // by trees that saw nothing of the prompt's source
  std::vector<double> strange_;    // by trees that saw nothing of its kind
  BoostedTrees model_;
  int trees_ = 0;
};

absl::Status CheckTraces(const TraceSet& traces, const FitOptions& options) {
  if (traces.variants.size() < 2) {
    return absl::InvalidArgumentError("the file has one variant; there is nothing to choose from");
  }
  if (traces.prompts.size() < kFewestPrompts) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", traces.prompts.size(),
                                                   " prompts; a router needs at least ",
                                                   kFewestPrompts, " to learn anything from"));
  }
  const std::vector<int> fold = Folds(traces, &PromptTrace::source, options.folds);
  for (int f = 0; f < options.folds; ++f) {
    if (std::find(fold.begin(), fold.end(), f) == fold.end()) {
      return absl::InvalidArgumentError(absl::StrCat("the prompts have fewer than ", options.folds,
                                                     " sources; name more, or none for any"));
    }
  }
  double before = 0;
  for (const TraceVariant& v : traces.variants) {
    if (v.bits_per_weight <= before) {
      return absl::InvalidArgumentError(
          absl::StrCat("variant ", v.name, " is no finer than the one before it"));
    }
    before = v.bits_per_weight;
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<double> TrueHarm(const TraceSet& traces) {
  const size_t coarser = traces.variants.size() - 1;
  std::vector<double> harm;
  for (const PromptTrace& p : traces.prompts) {
    double sum = 0;
    for (size_t v = 0; v < coarser; ++v) sum += LogKl(p, v);
    harm.push_back(sum / static_cast<double>(coarser));
  }
  const double mean = Mean(harm);
  for (double& h : harm) h -= mean;
  return harm;
}

double RankCorrelation(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> x = Ranks(a), y = Ranks(b);
  const double mx = Mean(x), my = Mean(y);
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mx) * (y[i] - my);
    xx += (x[i] - mx) * (x[i] - mx);
    yy += (y[i] - my) * (y[i] - my);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

absl::StatusOr<Fit> FitPredictor(const TraceSet& traces, const FitOptions& options) {
  LIFT_RETURN_IF_ERROR(CheckTraces(traces, options));
  return Trainer(traces, options).Run();
}

}  // namespace lift
