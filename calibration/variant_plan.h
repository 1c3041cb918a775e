// What a user asks of variants (bits, lambda or bytes) -> prefixes of the planes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calibration/allocate.h"
#include "calibration/strips.h"
#include "kernels/base/status.h"
#include "kernels/format/lifted_file.h"
#include "nlohmann/json_fwd.hpp"
#include "server/model/model_config.h"

namespace lift {

// One variant as the user asked for it; exactly one of the three.
struct VariantRequest {
  std::optional<double> bits, lambda;
  std::optional<uint64_t> budget_bytes;
};

// Variants with full, bits_per_weight (as wanted) and budget_bytes set, in the order asked for.
// fixed_bytes: what every variant holds besides planes. INVALID_ARGUMENT for a precision or a
// budget that no file of this model has.
absl::StatusOr<std::vector<LiftedVariant>> PlanVariants(std::span<const VariantRequest> requests,
                                                        int64_t weights, uint64_t fixed_bytes);

// What the matrices of a model will take in a chain, from shapes alone: names and stage_bytes.
// strips: of the vocabulary.
std::vector<TensorCost> PlannedCosts(const ModelConfig& config, const std::vector<int>& chain,
                                     std::span<const Strip> strips);

// What every variant holds besides planes, from shapes alone: norms, biases, binary16 row scales.
uint64_t PlannedFixedBytes(const ModelConfig& config);

// ChainForBits of the planned variants, less what padding takes. one_bit: PlannedCosts of {1}.
std::vector<int> ChainForVariants(std::span<const LiftedVariant> variants, int64_t weights,
                                  std::span<const TensorCost> one_bit);

// Sets plane_bytes, name and wide_stages of planned variants and sorts them. INVALID_ARGUMENT for
// one below the first stages or asked for twice.
absl::Status PlaceVariants(std::span<const TensorCost> tensors, int64_t weights,
                           std::vector<LiftedVariant>& variants);

// Takes the stages that no placed variant reads from the end of the order and from the tensors'
// costs: a chain may be longer than the finest variant needs, so that it too can choose which
// tensors get more. Variants that hold the source say nothing; with no others all stages stay.
void DropUnused(std::span<const LiftedVariant> variants, std::vector<PlaneUnit>& order,
                std::vector<TensorCost>& tensors);

// Shrinks variants with a budget to what the written file lets them hold, beside its tables; true
// if any changed. INVALID_ARGUMENT where a budget does not hold the first stages.
absl::StatusOr<bool> FitBudgets(const LiftedFile& file, std::vector<LiftedVariant>& variants);

// What calibration learned of the tensors, as the report of a lifted file has it.
nlohmann::json CostsJson(std::span<const TensorCost> tensors);

// The same, read back from the file and its report.
// FAILED_PRECONDITION if the file has no such report.
absl::StatusOr<std::vector<TensorCost>> CostsOf(const LiftedFile& file);

// KL that a variant of `plane_bytes` of the file will have: the tensors' costs, corrected by how
// wrong they were about the file's measured variants (between two of them by interpolation).
double ExpectedKl(const LiftedFile& file, std::span<const TensorCost> tensors,
                  uint64_t plane_bytes);

}  // namespace lift
