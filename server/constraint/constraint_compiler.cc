#include "server/constraint/constraint_compiler.h"

#include <sys/resource.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace lift {
namespace {

constexpr int kNice = 10;               // of the worker, beside the threads that compute answers
constexpr size_t kEntryOverhead = 512;  // bytes, of a result that failed

}  // namespace

ConstraintCompiler::ConstraintCompiler(std::shared_ptr<const Tokenizer> tokenizer, Options options)
    : tokenizer_(std::move(tokenizer)), options_(options), worker_([this] { Work(); }) {}

ConstraintCompiler::~ConstraintCompiler() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    work_.notify_one();
  }
  worker_.join();
}

absl::Status ConstraintCompiler::Compile(std::shared_ptr<const ConstraintSource> source,
                                         const std::string& tenant, Done done) {
  std::unique_lock lock(mutex_);
  const std::string& key = source->key();
  if (const auto it = known_.find(key); it != known_.end()) {
    entries_.splice(entries_.begin(), entries_, it->second);
    ++stats_.reused;
    Result result = it->second->result;
    lock.unlock();
    done(std::move(result));
    return absl::OkStatus();
  }
  if (const auto it = jobs_.find(key); it != jobs_.end()) {
    it->second->waiting.push_back(std::move(done));
    ++stats_.reused;
    return absl::OkStatus();
  }
  if (jobs_.size() >= options_.max_waiting) {
    return absl::UnavailableError(absl::StrCat(
        "QUEUE_FULL: ", jobs_.size(), " constraints wait to be compiled; try again later"));
  }
  auto job = std::make_shared<Job>();
  job->source = std::move(source);
  job->waiting.push_back(std::move(done));
  jobs_.emplace(job->source->key(), job);
  queues_[tenant].push_back(std::move(job));
  work_.notify_one();
  return absl::OkStatus();
}

ConstraintCompiler::Stats ConstraintCompiler::stats() const {
  const std::lock_guard lock(mutex_);
  Stats stats = stats_;
  stats.entries = entries_.size();
  return stats;
}

// The next tenant's oldest.
std::shared_ptr<ConstraintCompiler::Job> ConstraintCompiler::TakeLocked() {
  auto it = queues_.upper_bound(last_tenant_);
  if (it == queues_.end()) it = queues_.begin();
  std::shared_ptr<Job> job = std::move(it->second.front());
  it->second.pop_front();
  last_tenant_ = it->first;
  if (it->second.empty()) queues_.erase(it);
  return job;
}

void ConstraintCompiler::KeepLocked(const std::string& key, const Result& result) {
  const size_t bytes = key.size() + kEntryOverhead + (result.ok() ? (*result)->bytes() : 0);
  entries_.push_front({key, result, bytes});
  known_[key] = entries_.begin();
  stats_.bytes += bytes;
  while (stats_.bytes > options_.cache_bytes && entries_.size() > 1) {
    stats_.bytes -= entries_.back().bytes;
    known_.erase(entries_.back().key);
    entries_.pop_back();
  }
}

void ConstraintCompiler::Work() {
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return stopping_ || !queues_.empty(); });
    if (stopping_) return;
    const std::shared_ptr<Job> job = TakeLocked();
    lock.unlock();
    if (trie_ == nullptr) trie_ = std::make_unique<const TokenTrie>(*tokenizer_);
    const Result result = CompiledConstraint::Compile(*job->source, tokenizer_, *trie_);
    lock.lock();
    KeepLocked(job->source->key(), result);
    jobs_.erase(job->source->key());
    ++stats_.compiled;
    const std::vector<Done> waiting = std::move(job->waiting);
    lock.unlock();
    for (const Done& done : waiting) done(result);
    lock.lock();
  }
}

}  // namespace lift
