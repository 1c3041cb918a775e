#include "calibration/calib_data.h"

#include <algorithm>
#include <fstream>
#include <random>
#include <sstream>

#include "absl/strings/str_cat.h"
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
  std::vector<ChatMessage> messages;
  for (const auto& m : line["messages"]) {
    if (!m.is_object() || !m.contains("role") || !m.contains("content") || !m["role"].is_string() ||
        !m["content"].is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": each message needs a string \"role\" and a string \"content\""));
    }
    messages.push_back({m["role"].get<std::string>(), m["content"].get<std::string>()});
  }
  if (chat == nullptr) {
    if (tokenizer.spec().chat_template.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": the model has no chat template, so use \"text\" lines"));
    }
    LIFT_ASSIGN_OR_RETURN(chat, ChatTemplate::Compile(tokenizer.spec().chat_template));
  }
  return chat->Render(messages, {false, tokenizer.spec().bos_token, tokenizer.spec().eos_token});
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

}  // namespace

absl::StatusOr<CalibrationData> LoadCalibrationData(const std::vector<std::string>& paths,
                                                    const Tokenizer& tokenizer,
                                                    const CalibrationDataOptions& options) {
  CalibrationData data;
  std::vector<int32_t> train;
  for (const std::string& path : paths) {
    LIFT_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, SourceTokens(path, tokenizer));
    const int64_t total = static_cast<int64_t>(tokens.size());
    const int64_t share = options.held_out_tokens / static_cast<int64_t>(paths.size());
    const int64_t held = std::min(total / 10, share);
    train.insert(train.end(), tokens.begin(), tokens.end() - held);
    data.held_out.insert(data.held_out.end(), tokens.end() - held, tokens.end());
  }
  for (int32_t id : train) {
    if (static_cast<size_t>(id) >= data.token_counts.size())
      data.token_counts.resize(static_cast<size_t>(id) + 1, 0);
    ++data.token_counts[static_cast<size_t>(id)];
  }
  const int64_t bos = tokenizer.spec().add_bos && tokenizer.spec().bos_id >= 0 ? 1 : 0;
  const int64_t length = options.context - bos, available = static_cast<int64_t>(train.size());
  if (available < 64) {
    return absl::InvalidArgumentError(absl::StrCat("the calibration text has only ", available,
                                                   " tokens; give at least 64, better ",
                                                   options.samples * options.context));
  }
  const int64_t count = std::clamp<int64_t>(available / length, 1, options.samples);
  if (count < options.samples) {
    data.warning = absl::StrCat("the calibration text yields ", count, " samples of ",
                                options.context, " tokens instead of ", options.samples);
  }
  std::mt19937_64 random(options.seed);
  const int64_t stride = available / count;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slack = std::max<int64_t>(0, stride - length);
    const int64_t begin =
        i * stride +
        (slack > 0 ? static_cast<int64_t>(random() % static_cast<uint64_t>(slack + 1)) : 0);
    std::vector<int32_t> sample;
    if (bos) sample.push_back(tokenizer.spec().bos_id);
    sample.insert(sample.end(), train.begin() + begin,
                  train.begin() + std::min(available, begin + length));
    data.samples.push_back(std::move(sample));
  }
  return data;
}

}  // namespace lift
