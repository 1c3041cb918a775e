#include "server/accounting/request_log.h"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/errors.h"
#include "server/metrics/usage_totals.h"

namespace lift {
namespace {

using nlohmann::json;

std::string NewSpanId() {
  thread_local std::mt19937_64 rng{std::random_device{}()};
  uint64_t id = 0;
  while (id == 0) id = rng();  // all zeros is not an id
  return absl::StrFormat("%016x", id);
}

// What both kinds of line begin with. The caller's span is the parent of ours.
json Start(const char* event, const EngineRequest& request, const ModelInfo& model) {
  json line{{"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone())},
            {"event", event},
            {"request_id", request.request_id},
            {"tenant", request.tenant},
            {"gen_ai.request.model", model.name}};
  const std::string& trace = request.traceparent;  // "00-TRACE-SPAN-FLAGS", checked on arrival
  if (trace.size() >= 55) {
    line["trace_id"] = trace.substr(3, 32);
    line["parent_span_id"] = trace.substr(36, 16);
    line["span_id"] = NewSpanId();
    line["trace_flags"] = trace.substr(53, 2);
  }
  return line;
}

void AddStatus(const absl::Status& status, json& line) {
  line["code"] = absl::StatusCodeToString(status.code());
  if (!status.ok()) line["error.type"] = ErrorReason(status);
}

std::string Text(const json& line) {
  return line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace

absl::StatusOr<std::unique_ptr<RequestLog>> RequestLog::Open(const std::string& path) {
  std::FILE* file = path == "-" ? stderr : std::fopen(path.c_str(), "ae");
  if (file == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("--request-log ", path, " cannot be written: ", std::strerror(errno)));
  }
  return std::unique_ptr<RequestLog>(new RequestLog(file));
}

RequestLog::RequestLog(std::FILE* file) : file_(file) {
  thread_ = std::thread([this] { Run(); });
}

RequestLog::~RequestLog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
  if (file_ != stderr) std::fclose(file_);
}

void ModelRequestLog::OnRejected(const EngineRequest& request, const absl::Status& status) {
  json line = Start("refused", request, model_);
  AddStatus(status, line);
  log_.Push(Text(line));
}

void ModelRequestLog::OnFinished(const EngineRequest& request, const FinishedEvent& event) {
  json line = Start("request", request, model_);
  AddStatus(event.status, line);
  const auto name = [&](int variant) {
    return model_.variants.at(static_cast<size_t>(variant)).name;
  };
  line["variant"] = name(event.variant);
  line["lambda"] = model_.variants.at(static_cast<size_t>(event.variant)).lambda;
  line["gen_ai.response.finish_reasons"] = {FinishReasonName(event.reason)};
  line["gen_ai.usage.input_tokens"] = event.usage.prompt_tokens;
  line["gen_ai.usage.output_tokens"] = event.usage.generated_tokens;
  line["cached_tokens"] = event.usage.cached_tokens;
  line["weight_byte_seconds"] = ByteSeconds(event.usage.weight_byte_us);
  line["kv_byte_seconds"] = ByteSeconds(event.usage.kv_byte_us);
  line["queue_seconds"] = event.timings.queue_seconds;
  line["time_to_first_token_seconds"] = event.timings.ttft_seconds;
  line["total_seconds"] = event.timings.total_seconds;
  for (const PrecisionSpan& span : event.spans) {
    line["spans"].push_back({{"variant", name(span.variant)},
                             {"tokens", span.tokens},
                             {"reason", router::ReasonName(span.reason)}});
  }
  log_.Push(Text(line));
}

void RequestLog::Push(std::string line) {
  {
    const std::lock_guard lock(mutex_);
    if (lines_.size() >= kMostWaiting) {
      ++dropped_;
      return;
    }
    if (dropped_ > 0) {
      lines_.push_back(absl::StrCat("{\"event\":\"lines_lost\",\"dropped\":", dropped_, "}\n"));
      dropped_ = 0;
    }
    lines_.push_back(std::move(line));
  }
  wake_.notify_one();
}

void RequestLog::Run() {
  for (;;) {
    std::deque<std::string> lines;
    bool last = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !lines_.empty(); });
      lines.swap(lines_);
      last = stopping_;
    }
    for (const std::string& line : lines) std::fwrite(line.data(), 1, line.size(), file_);
    std::fflush(file_);
    if (last) return;
  }
}

}  // namespace lift
