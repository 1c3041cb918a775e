#include "server/memory/governor.h"

#include <algorithm>
#include <ctime>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/memory/budget.h"

namespace lift {
namespace {

int LocalMinute() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return local.tm_hour * 60 + local.tm_min;
}

}  // namespace

MemoryGovernor::MemoryGovernor(Engine& engine, const ModelInfo& model, Options options)
    : engine_(engine),
      model_(model),
      options_(std::move(options)),
      policy_(options_.pressure),
      wish_(engine.resident_variants()) {
  thread_ = std::thread([this] { Run(); });
}

MemoryGovernor::~MemoryGovernor() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void MemoryGovernor::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    const int wish = Wish();
    if (wish != wish_) pending_ = true;
    wish_ = wish;
    if (pending_) Pursue(wish);
    lock.lock();
    wake_.wait_for(lock, options_.poll, [this] { return stopping_; });
  }
}

// How many variants there should be now.
int MemoryGovernor::Wish() {
  int allowed = static_cast<int>(model_.variants.size());
  const int minute = options_.minute_of_day ? options_.minute_of_day() : LocalMinute();
  if (const auto budget = options_.schedule.BytesAt(minute)) {
    allowed = std::max(1, VariantsWithin(model_.variants, *budget));
  } else if (options_.pressure_path.empty()) {
    return wish_;
  }
  if (options_.pressure_path.empty()) return allowed;
  const auto reading = ReadPressure(options_.pressure_path);
  if (!reading.ok()) {
    if (std::exchange(last_trouble_, std::string(reading.status().message())) !=
            reading.status().message() &&
        options_.report) {
      options_.report(last_trouble_);
    }
    return std::min(wish_, allowed);
  }
  const auto next = static_cast<size_t>(engine_.resident_variants());
  const uint64_t next_bytes =
      next < model_.variants.size() ? model_.variants[next].incremental_bytes : 0;
  return allowed -
         policy_.Decide(*reading, std::chrono::steady_clock::now(), allowed - 1, next_bytes);
}

void MemoryGovernor::Pursue(int count) {
  auto promise = std::make_shared<std::promise<absl::StatusOr<ResidencyChange>>>();
  engine_.SetResidentVariants(count, [promise](absl::StatusOr<ResidencyChange> change) {
    promise->set_value(std::move(change));
  });
  const auto change = promise->get_future().get();
  const auto say = [&](const std::string& line) {
    if (std::exchange(last_trouble_, line) != line && options_.report) options_.report(line);
  };
  if (!change.ok()) {
    ++refusals_;
    return say(absl::StrCat("memory cannot be given back yet: ", change.status().message()));
  }
  pending_ = false;
  if (change->before == change->after) return;
  ++changes_;
  say(absl::StrCat("weights resident up to ",
                   model_.variants[static_cast<size_t>(change->after) - 1].name, ", ",
                   change->resident_bytes, " bytes; ", change->moved, " streams moved"));
  if (options_.changed) options_.changed();
}

}  // namespace lift
