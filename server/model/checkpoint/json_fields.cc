#include "server/model/checkpoint/json_fields.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "kernels/base/mapped_file.h"
#include "server/model/checkpoint/quoted.h"

namespace lift {
namespace {

using nlohmann::json;

// Thrown inside the parser only, to stop it at once.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Refuses deep nesting and repeated keys while the text is being read.
class Guard {
 public:
  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    constexpr int kMaxDepth = 64;
    switch (event) {
      case json::parse_event_t::object_start:
        keys_.emplace_back();
        [[fallthrough]];
      case json::parse_event_t::array_start:
        if (depth >= kMaxDepth) throw Refused(absl::StrCat("nests deeper than ", kMaxDepth));
        break;
      case json::parse_event_t::key:
        if (!keys_.back().insert(parsed.get_ref<const std::string&>()).second) {
          throw Refused(
              absl::StrCat("has ", Quoted(parsed.get_ref<const std::string&>()), " twice"));
        }
        break;
      case json::parse_event_t::object_end:
        keys_.pop_back();
        break;
      default:
        break;
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> keys_;  // of the objects now open
};

std::optional<int64_t> AsInt(const json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX})
    return std::nullopt;
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (number != std::floor(number) || std::fabs(number) > 0x1p53) return std::nullopt;
  return static_cast<int64_t>(number);
}

}  // namespace

absl::StatusOr<json> ParseJsonObject(std::string_view text, const std::string& source) {
  try {
    Guard guard;
    json value = json::parse(text.begin(), text.end(),
                             [&guard](int depth, json::parse_event_t event, json& parsed) {
                               return guard(depth, event, parsed);
                             });
    if (!value.is_object())
      return absl::InvalidArgumentError(source + ": a JSON object is expected");
    return value;
  } catch (const Refused& refused) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": the JSON ", refused.what()));
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": not valid JSON: ", error.what()));
  }
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  LIFT_ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file, MappedFile::Open(path));
  const std::span<const std::byte> bytes = file->bytes();
  if (bytes.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", bytes.size(), " bytes; at most ", max_bytes, " are allowed"));
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

bool JsonFields::Has(const char* key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

absl::Status JsonFields::Wrong(const char* key, const char* wanted) const {
  return absl::InvalidArgumentError(absl::StrCat(source_, ": ", key, " must be ", wanted));
}

absl::StatusOr<const json*> JsonFields::Find(const char* key) const {
  if (!Has(key)) return absl::InvalidArgumentError(absl::StrCat(source_, ": ", key, " is missing"));
  return &object_.at(key);
}

absl::StatusOr<int64_t> JsonFields::Int(const char* key) const {
  LIFT_ASSIGN_OR_RETURN(const json* value, Find(key));
  const std::optional<int64_t> number = AsInt(*value);
  if (!number) return Wrong(key, "an integer");
  return *number;
}

absl::StatusOr<double> JsonFields::Number(const char* key) const {
  LIFT_ASSIGN_OR_RETURN(const json* value, Find(key));
  if (!value->is_number()) return Wrong(key, "a number");
  return value->get<double>();
}

absl::StatusOr<bool> JsonFields::Bool(const char* key) const {
  LIFT_ASSIGN_OR_RETURN(const json* value, Find(key));
  if (!value->is_boolean()) return Wrong(key, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonFields::String(const char* key) const {
  LIFT_ASSIGN_OR_RETURN(const json* value, Find(key));
  if (!value->is_string()) return Wrong(key, "a string");
  return value->get<std::string>();
}

absl::StatusOr<int64_t> JsonFields::Int(const char* key, int64_t absent) const {
  return Has(key) ? Int(key) : absl::StatusOr<int64_t>(absent);
}
absl::StatusOr<double> JsonFields::Number(const char* key, double absent) const {
  return Has(key) ? Number(key) : absl::StatusOr<double>(absent);
}
absl::StatusOr<bool> JsonFields::Bool(const char* key, bool absent) const {
  return Has(key) ? Bool(key) : absl::StatusOr<bool>(absent);
}
absl::StatusOr<std::string> JsonFields::String(const char* key, const std::string& absent) const {
  return Has(key) ? String(key) : absl::StatusOr<std::string>(absent);
}

absl::StatusOr<std::vector<int64_t>> JsonFields::IntOrInts(const char* key) const {
  std::vector<int64_t> numbers;
  if (!Has(key)) return numbers;
  const json& value = object_.at(key);
  const auto add = [&numbers](const json& item) {
    const std::optional<int64_t> number = AsInt(item);
    if (number) numbers.push_back(*number);
    return number.has_value();
  };
  if (!value.is_array()) {
    if (!add(value)) return Wrong(key, "an integer or a list of integers");
    return numbers;
  }
  for (const json& item : value) {
    if (!add(item)) return Wrong(key, "an integer or a list of integers");
  }
  return numbers;
}

absl::StatusOr<JsonFields> JsonFields::Object(const char* key) const {
  LIFT_ASSIGN_OR_RETURN(const json* value, Find(key));
  if (!value->is_object()) return Wrong(key, "an object");
  return JsonFields(*value, absl::StrCat(source_, ": ", key));
}

}  // namespace lift
