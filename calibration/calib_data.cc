#include "calibration/calib_data.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "calibration/chat_lines.h"
#include "nlohmann/json.hpp"
#include "server/tokenizer/chat_template.h"

namespace lift {
namespace {

bool EndsWith(const std::string& s, const std::string& suffix) {
  return s.size() >= suffix.size() &&
         s.compare(s.size() - suffix.size(), suffix.size(), suffix) == 0;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read calibration text ", path));
  std::stringstream buffer;
  buffer << in.rdbuf();
  return buffer.str();
}

// Invalid UTF-8 is replaced: one bad byte in a text file is no reason to refuse a calibration.
std::string CleanUtf8(const std::string& text) {
  const nlohmann::json wrapped = text;
  const std::string dumped = wrapped.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return nlohmann::json::parse(dumped).get<std::string>();
}

absl::StatusOr<std::string> LineText(const nlohmann::json& line, const std::string& where,
                                     const Tokenizer& tokenizer,
                                     std::shared_ptr<const ChatTemplate>& chat) {
  if (line.is_object() && line.contains("text") && line["text"].is_string())
    return line["text"].get<std::string>() + "\n";
  if (!line.is_object() || !line.contains("messages") || !line["messages"].is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": each line must be an object with \"text\" or \"messages\""));
  }
  auto messages = ReadMessages(line["messages"]);
  if (!messages.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", messages.status().message()));
  }
  if (chat == nullptr) {
    if (tokenizer.spec().chat_template.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": the model has no chat template, so use \"text\" lines"));
    }
    LIFT_ASSIGN_OR_RETURN(chat, ChatTemplate::Compile(tokenizer.spec().chat_template));
  }
  return chat->Render(*messages, {false, tokenizer.spec().bos_token, tokenizer.spec().eos_token});
}

absl::StatusOr<std::vector<int32_t>> SourceTokens(const std::string& path,
                                                  const Tokenizer& tokenizer) {
  LIFT_ASSIGN_OR_RETURN(const std::string raw, ReadFile(path));
  std::vector<int32_t> tokens;
  if (!EndsWith(path, ".jsonl") && !EndsWith(path, ".json")) {
    return tokenizer.Encode(CleanUtf8(raw), {false, false});
  }
  std::shared_ptr<const ChatTemplate> chat;
  std::istringstream lines(raw);
  std::string text;
  for (int64_t number = 1; std::getline(lines, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = absl::StrCat(path, " line ", number);
    const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
    if (line.is_discarded())
      return absl::InvalidArgumentError(absl::StrCat(where, ": is not valid JSON"));
    LIFT_ASSIGN_OR_RETURN(const std::string rendered, LineText(line, where, tokenizer, chat));
    const bool is_chat = line.contains("messages");
    LIFT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          tokenizer.Encode(CleanUtf8(rendered), {false, is_chat}));
    tokens.insert(tokens.end(), ids.begin(), ids.end());
  }
  return tokens;
}

// Windows of `length` tokens spread evenly over `text`, with random offsets, each after BOS if
// there is one.
void CutSamples(const std::vector<int32_t>& text, int64_t count, int64_t length,
                std::optional<int32_t> bos, std::mt19937_64& random,
                std::vector<std::vector<int32_t>>& samples) {
  const int64_t available = static_cast<int64_t>(text.size()), stride = available / count;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slack = std::max<int64_t>(0, stride - length);
    const int64_t begin =
        i * stride +
        (slack > 0 ? static_cast<int64_t>(random() % static_cast<uint64_t>(slack + 1)) : 0);
    std::vector<int32_t> sample;
    if (bos) sample.push_back(*bos);
    sample.insert(sample.end(), text.begin() + begin,
                  text.begin() + std::min(available, begin + length));
    samples.push_back(std::move(sample));
  }
}

// Samples of each source by weight; a source too short for its share gives what it has.
void CutWeighted(const std::vector<std::vector<int32_t>>& texts, int64_t wanted, int64_t length,
                 std::optional<int32_t> bos, std::mt19937_64& random, CalibrationData& data) {
  double total = 0;
  for (const CalibrationSource& source : data.sources) total += source.weight.value_or(1.0);
  for (size_t s = 0; s < texts.size(); ++s) {
    CalibrationSource& source = data.sources[s];
    const int64_t share = std::max<int64_t>(
        1, std::llround(static_cast<double>(wanted) * source.weight.value_or(1.0) / total));
    const int64_t has =
        std::max<int64_t>(1, static_cast<int64_t>(texts[s].size()) / std::max<int64_t>(1, length));
    source.samples = std::min(share, has);
    if (source.samples < share) {
      absl::StrAppend(&data.warning, data.warning.empty() ? "" : "; ", "calibration source '",
                      source.name, "' yields ", source.samples, " samples instead of its share of ",
                      share);
    }
    CutSamples(texts[s], source.samples, length, bos, random, data.samples);
  }
}

}  // namespace

absl::StatusOr<CalibrationSource> ParseCalibrationSource(const std::string& text) {
  CalibrationSource source;
  source.path = text;
  if (!std::filesystem::exists(text)) {
    const size_t equals = text.find('=');
    if (equals != std::string::npos && text.find('/') > equals) {
      source.name = text.substr(0, equals);
      source.path = text.substr(equals + 1);
      source.named = true;
      if (source.name.empty())
        return absl::InvalidArgumentError(
            absl::StrCat("calibration source '", text, "' has no name before '='"));
    }
    const size_t colon = source.path.rfind(':');
    double weight = 0;
    if (colon != std::string::npos && absl::SimpleAtod(source.path.substr(colon + 1), &weight)) {
      if (!(weight > 0 && weight < 1e9))
        return absl::InvalidArgumentError(
            absl::StrCat("the weight of calibration source '", text, "' must be positive"));
      source.weight = weight;
      source.path.resize(colon);
      source.named = true;
    }
  }
  if (source.path.empty())
    return absl::InvalidArgumentError(absl::StrCat("calibration source '", text, "' has no path"));
  if (source.name.empty()) source.name = std::filesystem::path(source.path).filename().string();
  return source;
}

absl::StatusOr<CalibrationData> LoadCalibrationData(const std::vector<std::string>& sources,
                                                    const Tokenizer& tokenizer,
                                                    const CalibrationDataOptions& options) {
  CalibrationData data;
  std::vector<std::vector<int32_t>> texts;
  std::vector<int32_t> train;
  bool weighted = false;
  for (const std::string& text : sources) {
    LIFT_ASSIGN_OR_RETURN(CalibrationSource source, ParseCalibrationSource(text));
    LIFT_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, SourceTokens(source.path, tokenizer));
    weighted |= source.weight.has_value();
    const int64_t total = static_cast<int64_t>(tokens.size());
    const int64_t share = options.held_out_tokens / static_cast<int64_t>(sources.size());
    const int64_t held = std::min(total / 10, share);
    source.held_out.assign(tokens.end() - held, tokens.end());
    data.held_out.insert(data.held_out.end(), tokens.end() - held, tokens.end());
    tokens.resize(tokens.size() - static_cast<size_t>(held));
    source.tokens = static_cast<int64_t>(tokens.size());
    train.insert(train.end(), tokens.begin(), tokens.end());
    texts.push_back(std::move(tokens));
    data.sources.push_back(std::move(source));
  }
  for (int32_t id : train) {
    if (static_cast<size_t>(id) >= data.token_counts.size())
      data.token_counts.resize(static_cast<size_t>(id) + 1, 0);
    ++data.token_counts[static_cast<size_t>(id)];
  }
  std::optional<int32_t> bos;
  if (tokenizer.spec().add_bos && tokenizer.spec().bos_id >= 0) bos = tokenizer.spec().bos_id;
  const int64_t length = options.context - (bos ? 1 : 0),
                available = static_cast<int64_t>(train.size());
  if (available < 64) {
    return absl::InvalidArgumentError(absl::StrCat("the calibration text has only ", available,
                                                   " tokens; give at least 64, better ",
                                                   options.samples * options.context));
  }
  std::mt19937_64 random(options.seed);
  if (weighted) {
    for (size_t s = 0; s < texts.size(); ++s) {
      if (texts[s].empty())
        return absl::InvalidArgumentError(
            absl::StrCat("calibration source '", data.sources[s].name, "' has no tokens"));
    }
    CutWeighted(texts, options.samples, length, bos, random, data);
    return data;
  }
  const int64_t count = std::clamp<int64_t>(available / length, 1, options.samples);
  if (count < options.samples) {
    data.warning = absl::StrCat("the calibration text yields ", count, " samples of ",
                                options.context, " tokens instead of ", options.samples);
  }
  CutSamples(train, count, length, bos, random, data.samples);
  return data;
}

std::string UnlikeWarning(const CalibrationData& data, const std::vector<int32_t>& tokens) {
  constexpr double kMany = 0.03;
  int64_t unseen = 0;
  for (int32_t id : tokens) {
    unseen += static_cast<size_t>(id) >= data.token_counts.size() ||
              data.token_counts[static_cast<size_t>(id)] == 0;
  }
  const double share =
      tokens.empty() ? 0 : static_cast<double>(unseen) / static_cast<double>(tokens.size());
  if (share < kMany) return "";
  return absl::StrCat(
      std::llround(100 * share),
      " % of the evaluation text's tokens never occur in the calibration text: it is "
      "of another kind, so calibrate on text like it too");
}

}  // namespace lift
