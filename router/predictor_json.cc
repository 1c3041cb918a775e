// A predictor as the JSON document that a lifted file carries.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "router/predictor.h"

namespace lift::router {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "liftserve-router-1";

// A leaf is [value]; a split is [feature, threshold, low, high, unknown_is_low], the feature an
// index into the document's own list of names.
json NodeToJson(const Predictor::Node& node) {
  if (node.feature < 0) return json::array({node.value});
  return json::array({node.feature, node.threshold, node.low, node.high, node.unknown_is_low});
}

// Indices of the document's features in FeatureNames().
absl::StatusOr<std::vector<int>> KnownFeatures(const json& names) {
  std::vector<int> known;
  for (const json& name : names) {
    const auto& text = name.get_ref<const std::string&>();
    const auto all = FeatureNames();
    const auto it = std::find(all.begin(), all.end(), text);
    if (it == all.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the predictor looks at '", text, "', which this program does not know; train it again"));
    }
    known.push_back(static_cast<int>(it - all.begin()));
  }
  return known;
}

Predictor::Node NodeFromJson(const json& entry, const std::vector<int>& features) {
  Predictor::Node node;
  if (entry.size() == 1) {
    node.value = entry.at(0).get<double>();
    return node;
  }
  node.feature = features.at(entry.at(0).get<size_t>());
  node.threshold = entry.at(1).get<double>();
  node.low = entry.at(2).get<int>();
  node.high = entry.at(3).get<int>();
  node.unknown_is_low = entry.at(4).get<bool>();
  return node;
}

absl::StatusOr<Predictor::Parts> PartsFromJson(const json& document) {
  Predictor::Parts parts;
  if (document.at("format") != kFormat) {
    return absl::InvalidArgumentError("the predictor is of another format; train it again");
  }
  auto features = KnownFeatures(document.at("features"));
  if (!features.ok()) return features.status();
  parts.version = document.at("version").get<std::string>();
  parts.base = document.at("base").get<double>();
  for (const json& tree : document.at("trees")) {
    Predictor::Tree& nodes = parts.trees.emplace_back();
    for (const json& node : tree) nodes.push_back(NodeFromJson(node, *features));
  }
  for (const json& knot : document.at("curve")) {
    parts.curve.push_back(
        {knot.at(0).get<double>(), knot.at(1).get<double>(), knot.at(2).get<double>()});
  }
  parts.finest_bits = document.at("finest_bits").get<double>();
  parts.probe_bits = document.value("probe_bits", 0.0);
  if (document.contains("wrong_guesses")) {
    parts.wrong_scale = document.at("wrong_guesses").at(0).get<double>();
    parts.wrong_power = document.at("wrong_guesses").at(1).get<double>();
  }
  parts.quantiles = document.at("quantiles").get<std::vector<double>>();
  parts.report = document.at("report").dump();
  return parts;
}

}  // namespace

std::string Predictor::ToJson() const {
  json trees = json::array(), curve = json::array();
  for (const Tree& tree : parts_.trees) {
    json nodes = json::array();
    for (const Node& node : tree) nodes.push_back(NodeToJson(node));
    trees.push_back(std::move(nodes));
  }
  for (const Knot& knot : parts_.curve) curve.push_back({knot.bits, knot.level, knot.slope});
  json report = json::parse(parts_.report, nullptr, /*allow_exceptions=*/false);
  if (report.is_discarded()) report = nullptr;
  const std::vector<std::string> names(FeatureNames().begin(), FeatureNames().end());
  return json({{"format", kFormat},
               {"version", parts_.version},
               {"features", names},
               {"base", parts_.base},
               {"trees", std::move(trees)},
               {"curve", std::move(curve)},
               {"finest_bits", parts_.finest_bits},
               {"probe_bits", parts_.probe_bits},
               {"wrong_guesses", {parts_.wrong_scale, parts_.wrong_power}},
               {"quantiles", parts_.quantiles},
               {"report", std::move(report)}})
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<std::shared_ptr<const Predictor>> Predictor::FromJson(std::string_view text) {
  const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  try {  // at() and conversions report what is missing or of another type by throwing
    auto parts = PartsFromJson(document);
    if (!parts.ok()) return parts.status();
    return Create(*std::move(parts));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("the predictor cannot be read: ", error.what()));
  }
}

}  // namespace lift::router
