// lift-eval router: does the router beat the best single precision at the same cost?
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "calibration/eval/commands.h"
#include "calibration/router/chart.h"
#include "calibration/router/curves.h"
#include "calibration/router/kept_state.h"
#include "router/predictor.h"

namespace lift::eval {
namespace {

using nlohmann::json;

json ToJson(const CurvePoint& p) {
  return {{"bits", p.bits}, {"kl", p.kl}, {"top1_agreement", p.agreement}};
}

json ToJson(const RouterEvaluation& evaluation, const TraceSet& traces,
            const std::string& version) {
  json levels = json::array(), curves = json::array(), variants = json::array();
  for (const LevelResult& l : evaluation.levels) {
    levels.push_back({{"budget", l.budget},
                      {"router", ToJson(l.router)},
                      {"static_kl", l.static_kl},
                      {"guessing_kl", l.guessing_kl},
                      {"gain_on_guessing", l.gain_on_guessing},
                      {"random_kl", l.random_kl},
                      {"oracle_kl", l.oracle_kl},
                      {"raising_kl", l.raising_kl},
                      {"cascade_kl", l.cascade_kl},
                      {"gain", l.gain},
                      {"gain_95", {l.gain_low, l.gain_high}}});
  }
  for (const Curve& c : evaluation.curves) {
    json points = json::array();
    for (const CurvePoint& p : c.points) points.push_back(ToJson(p));
    curves.push_back({{"name", c.name},
                      {"apgr", c.apgr},
                      {"cpt50", c.cpt50},
                      {"cpt80", c.cpt80},
                      {"points", std::move(points)}});
  }
  for (const TraceVariant& v : traces.variants) {
    variants.push_back({{"name", v.name}, {"bits_per_weight", v.bits_per_weight}});
  }
  json kinds = json::array();
  for (const KindResult& k : evaluation.kinds) {
    kinds.push_back({{"kind", k.kind.empty() ? json() : json(k.kind)},
                     {"prompts", k.prompts},
                     {"routed", ToJson(k.routed)}});
  }
  json drafted = json::array();
  for (const auto& d : evaluation.drafted) {
    drafted.push_back({{"variant", d.variant},
                       {"draft", d.draft.empty() ? json() : json(d.draft)},
                       {"tokens", d.tokens},
                       {"bits", d.bits},
                       {"expected_bits", d.expected_bits},
                       {"right", d.right},
                       {"expected_right", d.expected_right}});
  }
  json kept = json::array();
  for (const KeptState& k : CompareKeptState(traces)) {
    kept.push_back({{"variant", k.variant},
                    {"bits_per_weight", k.bits_per_weight},
                    {"staying_kl", k.staying_kl},
                    {"kept_kl", k.kept_kl}});
  }
  return {{"prompts", evaluation.prompts},
          {"kept_state", std::move(kept)},
          {"drafted", std::move(drafted)},
          {"kinds", std::move(kinds)},
          {"positions", evaluation.positions},
          {"router_version", version},
          {"rank_correlation", evaluation.rank_correlation},
          {"variants", std::move(variants)},
          {"levels", std::move(levels)},
          {"curves", std::move(curves)}};
}

void PrintTables(const RouterEvaluation& evaluation) {
  std::printf("%lld prompts, %lld positions; rank correlation of predicted and true harm %.3f\n\n",
              static_cast<long long>(evaluation.prompts),
              static_cast<long long>(evaluation.positions), evaluation.rank_correlation);
  std::printf("mean KL to the finest variant at equal mean bits per weight and token\n");
  std::printf("%7s %7s %9s %9s %7s %16s %9s %9s %9s %9s\n", "budget", "bits", "router", "static",
              "gain", "95 % interval", "raising", "cascade", "random", "oracle");
  for (const LevelResult& l : evaluation.levels) {
    std::printf("%7.2f %7.3f %9.5f %9.5f %6.1f%% %6.1f%% .. %5.1f%% %9.5f %9.5f %9.5f %9.5f\n",
                l.budget, l.router.bits, l.router.kl, l.static_kl, 100 * l.gain, 100 * l.gain_low,
                100 * l.gain_high, l.raising_kl, l.cascade_kl, l.random_kl, l.oracle_kl);
  }
  std::printf("\n%-16s %8s %8s %10s %10s   (policy)\n", "kind", "prompts", "bits", "KL", "top-1");
  for (const KindResult& k : evaluation.kinds) {
    std::printf("%-16s %8lld %8.3f %10.5f %9.2f%%\n", k.kind.empty() ? "all" : k.kind.c_str(),
                static_cast<long long>(k.prompts), k.routed.bits, k.routed.kl,
                100 * k.routed.agreement);
  }
  std::printf("\n%-10s %8s %8s %8s\n", "", "APGR", "CPT50", "CPT80");
  for (const Curve& c : evaluation.curves) {
    std::printf("%-10s %8.4f %7.1f%% %7.1f%%\n", c.name.c_str(), c.apgr, 100 * c.cpt50,
                100 * c.cpt80);
  }
}

void PrintDrafted(const RouterEvaluation& evaluation) {
  if (evaluation.drafted.empty()) return;
  std::printf(
      "\nguessing ahead: plane bits per weight that are read for a token, measured "
      "(expected)\n");
  std::printf("%-10s %-10s %7s %17s %19s\n", "variant", "draft", "tokens", "bits", "right");
  for (const auto& d : evaluation.drafted) {
    std::printf("%-10s %-10s %7d %8.3f (%6.3f) %8.2f%% (%6.2f%%)\n", d.variant.c_str(),
                d.draft.empty() ? "-" : d.draft.c_str(), d.tokens, d.bits, d.expected_bits,
                100 * d.right, 100 * d.expected_right);
  }
  std::printf("\n%7s %7s %9s %9s %9s %9s\n", "budget", "bits", "router", "static", "guessing",
              "gain on it");
  for (const LevelResult& l : evaluation.levels) {
    std::printf("%7.2f %7.3f %9.5f %9.5f %9.5f %8.1f%%\n", l.budget, l.router.bits, l.router.kl,
                l.static_kl, l.guessing_kl, 100 * l.gain_on_guessing);
  }
}

void PrintKeptState(std::span<const KeptState> kept) {
  if (kept.empty()) return;
  std::printf(
      "\nsecond halves of answers whose first half a coarser variant wrote: KL to the finest\n");
  std::printf("%-10s %8s %12s %20s\n", "variant", "bits", "staying", "raised, state kept");
  for (const KeptState& k : kept) {
    std::printf("%-10s %8.3f %12.5f %20.5f\n", k.variant.c_str(), k.bits_per_weight, k.staying_kl,
                k.kept_kl);
  }
}

absl::Status WritePlot(const std::string& path, const RouterEvaluation& evaluation) {
  std::vector<ChartLine> lines;
  for (const Curve& curve : evaluation.curves) {
    ChartLine& line = lines.emplace_back(curve.name);
    for (const CurvePoint& p : curve.points) line.points.emplace_back(p.bits, p.kl);
  }
  std::ofstream out(path);
  out << LineChart("Loss of precision against its cost", "mean plane bits per weight and token",
                   "mean KL to the finest variant, nats", lines);
  out.close();
  return out ? absl::OkStatus()
             : absl::InternalError(absl::StrCat("cannot write the plot '", path, "'"));
}

}  // namespace

absl::Status RunRouter(const CommonOptions& common, const RouterOptions& options) {
  LIFT_ASSIGN_OR_RETURN(const auto file, LiftedFile::Open(common.model, {.verify_planes = false}));
  router::RouterConfig config;
  if (!file->router_json().empty()) {
    LIFT_ASSIGN_OR_RETURN(config.predictor, router::Predictor::FromJson(file->router_json()));
  }
  if (config.predictor == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", common.model, "' has no trained router; train one with lift-calibrate router"));
  }
  CollectRequest collect = options.collect;
  collect.model = common.model;
  collect.threads = common.threads;
  collect.cut_mb = common.cut_mb;
  collect.kv_format = common.kv_format();
  LIFT_ASSIGN_OR_RETURN(const TraceSet traces, ObtainTraces(collect));
  CurveOptions curves;
  curves.levels = options.levels;
  curves.resamples = options.resamples;
  curves.most_drafts = options.most_drafts;
  LIFT_ASSIGN_OR_RETURN(curves.policy, router::ParsePolicy(options.policy));
  LIFT_ASSIGN_OR_RETURN(const RouterEvaluation evaluation, EvaluateRouter(traces, config, curves));
  if (common.json) {
    std::printf("%s\n",
                ToJson(evaluation, traces, config.predictor->parts().version).dump(2).c_str());
  } else {
    PrintTables(evaluation);
    PrintDrafted(evaluation);
    PrintKeptState(CompareKeptState(traces));
  }
  return options.plot.empty() ? absl::OkStatus() : WritePlot(options.plot, evaluation);
}

}  // namespace lift::eval
