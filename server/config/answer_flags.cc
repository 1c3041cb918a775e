#include "server/config/answer_flags.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace lift {

void AddConstraintFlags(CLI::App& app, ConstraintFlags& flags) {
  auto* what = app.add_option_group("constraint", "What the answer's text must be; at most one");
  what->add_option("--regex", flags.regex, "A match of this pattern (or of that in @FILE)");
  what->add_option("--json-schema", flags.json_schema, "An instance of this schema (or @FILE)");
  what->add_option("--grammar", flags.grammar, "A text of this grammar, in GBNF (or @FILE)");
  what->add_option("--choice", flags.choices, "One of these strings (may be repeated)")
      ->allow_extra_args(false);
  what->add_flag("--json-object", flags.json_object, "Any JSON object");
  what->require_option(0, 1);
}

absl::StatusOr<std::vector<std::pair<int32_t, float>>> ParseLogitBias(
    const std::vector<std::string>& entries) {
  std::vector<std::pair<int32_t, float>> parsed;
  for (const std::string& entry : entries) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(entry, absl::MaxSplits(':', 1));
    auto& [id, bias] = parsed.emplace_back();
    if (!absl::SimpleAtoi(parts.first, &id) || !absl::SimpleAtof(parts.second, &bias)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--logit-bias '", entry, "' must be TOKEN_ID:BIAS"));
    }
  }
  return parsed;
}

}  // namespace lift
