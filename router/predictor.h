// The trained part of the router: how much each variant would change the answer to a query.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "router/features.h"

namespace lift::router {

// Boosted regression trees give a query's *harm*: how far the logarithm of its KL divergence lies
// above (below) the mean query's, 0 being average. A curve over bits turns it into nats for any
// variant. What is predicted is KL(finest || variant) per token of the finest variant's own answer.
// Immutable and thread-safe.
class Predictor {
 public:
  // One node of a tree. A leaf has no feature (-1).
  struct Node {
    int feature = -1;  // index into FeatureNames()
    double threshold = 0;
    int low = 0, high = 0;        // children: value <= threshold, value > threshold
    bool unknown_is_low = false;  // where a feature goes that is not known
    double value = 0;             // of a leaf
  };
  using Tree = std::vector<Node>;  // [0] is the root; children come after their parent
  // The leaf that the features lead to.
  static double ValueOf(const Tree& tree, const FeatureVector& features);

  // At this many plane bits per weight, log KL = level + slope * harm.
  struct Knot {
    double bits = 0, level = 0, slope = 1;
  };

  struct Parts {
    double base = 0;
    std::vector<Tree> trees;
    std::vector<Knot> curve;  // ascending bits, all but the finest variant trained on
    double finest_bits = 0;   // from here on KL is 0
    double probe_bits = 0;    // of the variant that probed the training prompts; 0 = none did
    // A guess at one variant is wrong at a finer one with probability scale * (what they are apart
    // in KL to the finest)^power; scale 0 = not known.
    double wrong_scale = 0, wrong_power = 1;
    std::vector<double> quantiles;  // ascending; of the harm of queries never trained on
    std::string version;            // "trained-" and a digest of what follows
    std::string report;             // JSON text: how it was trained, and how well it predicts
  };
  // INVALID_ARGUMENT for a tree that is no tree, a curve out of order or numbers out of range.
  static absl::StatusOr<std::shared_ptr<const Predictor>> Create(Parts parts);
  // The JSON document in a lifted file. INVALID_ARGUMENT saying what is wrong.
  static absl::StatusOr<std::shared_ptr<const Predictor>> FromJson(std::string_view text);
  std::string ToJson() const;

  // Within the range of the training queries.
  double Harm(const FeatureVector& features) const;
  // Nats; falls with bits and rises with harm.
  double ExpectedKl(double harm, double bits) const;
  bool KnowsGuesses() const { return parts_.wrong_scale > 0; }
  // Whether any tree looks at PrefillSignals::probe_kl.
  bool UsesProbe() const { return uses_probe_; }
  // Probability that a token drawn at `draft_bits` is what `target_bits` draws there with the same
  // random number, for a query of average harm.
  double RightGuesses(double draft_bits, double target_bits) const;
  // Share of training queries with less harm, in [0, 1]: the complexity score.
  double Percentile(double harm) const;
  const Parts& parts() const { return parts_; }
  std::span<const double> quantiles() const { return parts_.quantiles; }

 private:
  explicit Predictor(Parts parts);
  Parts parts_;
  bool uses_probe_ = false;
};

}  // namespace lift::router
