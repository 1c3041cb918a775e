// Compiles constraints off the threads that serve, once each.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "server/constraint/constraint.h"

namespace lift {

// Thread-safe. One worker of low priority takes the tenants' constraints in turn, so that hostile
// ones delay their sender most. The most recently used results stay, up to a number of bytes;
// what failed stays too.
class ConstraintCompiler {
 public:
  struct Options {
    size_t cache_bytes = size_t{64} << 20;
    size_t max_waiting = 64;  // constraints, over all tenants
  };
  using Result = absl::StatusOr<std::shared_ptr<const CompiledConstraint>>;
  using Done = std::function<void(Result)>;

  explicit ConstraintCompiler(std::shared_ptr<const Tokenizer> tokenizer)
      : ConstraintCompiler(std::move(tokenizer), Options{}) {}
  ConstraintCompiler(std::shared_ptr<const Tokenizer> tokenizer, Options options);
  // Waits for the compilation under way; `done` of those that wait is not called any more.
  ~ConstraintCompiler();

  // Calls `done` once: before it returns if the result is known, else on the worker's thread.
  // UNAVAILABLE (QUEUE_FULL: ...) if too many wait; `done` is then not called.
  absl::Status Compile(std::shared_ptr<const ConstraintSource> source, const std::string& tenant,
                       Done done);

  struct Stats {
    int64_t compiled = 0, reused = 0;
    size_t bytes = 0, entries = 0;
  };
  Stats stats() const;

 private:
  struct Job {
    std::shared_ptr<const ConstraintSource> source;
    std::vector<Done> waiting;
  };
  struct Entry {
    std::string key;
    Result result;
    size_t bytes = 0;
  };
  void Work();
  std::shared_ptr<Job> TakeLocked();
  void KeepLocked(const std::string& key, const Result& result);

  const std::shared_ptr<const Tokenizer> tokenizer_;
  const Options options_;
  std::unique_ptr<const TokenTrie> trie_;  // the worker's; made for the first constraint

  mutable std::mutex mutex_;
  std::condition_variable work_;
  // Guarded by mutex_.
  std::map<std::string, std::deque<std::shared_ptr<Job>>> queues_;  // by tenant
  std::string last_tenant_;                                         // whose turn it was
  std::unordered_map<std::string, std::shared_ptr<Job>> jobs_;      // waiting and under way
  std::list<Entry> entries_;                                        // most recently used first
  std::unordered_map<std::string, std::list<Entry>::iterator> known_;
  Stats stats_;
  bool stopping_ = false;
  std::thread worker_;
};

}  // namespace lift
