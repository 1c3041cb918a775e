#include "tests/bench/bench_speculation.h"

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>

#include "calibration/eval/session.h"
#include "server/assembly.h"
#include "server/engine/engine.h"

namespace lift::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Collects an answer; the time counts from its first token, so reading the prompt does not.
class Reader : public RequestListener {
 public:
  void OnStarted(const StartedEvent&) override {}
  void OnToken(const TokenEvent& event) override {
    if (ids.empty()) first = Clock::now();
    ids.push_back(event.id);
  }
  void OnFinished(const FinishedEvent& event) override {
    const std::lock_guard lock(mutex_);
    last = Clock::now();
    status = event.status;
    done_ = true;
    finished_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return done_; });
  }
  std::vector<int32_t> ids;
  Clock::time_point first, last;
  absl::Status status;

 private:
  std::mutex mutex_;
  std::condition_variable finished_;
  bool done_ = false;
};

struct Run {
  std::vector<std::vector<int32_t>> answers;
  double tokens_per_second = 0;
  SpeculationStats stats;
  int64_t tokens = 0;
};

struct Job {
  std::vector<std::vector<int32_t>> prompts;
  std::string variant;
  int64_t tokens = 0, streams = 1;
  double temperature = 0;
};

const char* const kPrompts[] = {"The capital of France is", "def fibonacci(n):\n",
                                "Once upon a time there was",
                                "A list of fruits: apple, pear, apple, pear, apple,"};

// All prompts, `streams` of them at a time.
Run Answer(StepModel& model, const std::shared_ptr<const Tokenizer>& tokenizer, const Job& job,
           int most_drafts) {
  Engine engine(model, tokenizer, {.prefix_cache = false, .router = {.most_drafts = most_drafts}});
  Run run;
  double seconds = 0;
  const auto step = static_cast<size_t>(job.streams);
  for (size_t begin = 0; begin < job.prompts.size(); begin += step) {
    std::vector<std::shared_ptr<Reader>> readers;
    for (size_t i = begin; i < std::min(begin + step, job.prompts.size()); ++i) {
      EngineRequest request;
      request.prompt = job.prompts[i];
      request.stopping.max_new_tokens = job.tokens;
      request.stopping.ignore_eos = true;
      request.sampling.temperature = job.temperature;
      request.sampling.seed = i;
      request.precision.mode = router::Mode::kPinned;
      request.precision.variant = job.variant;
      readers.push_back(std::make_shared<Reader>());
      if (const auto id = engine.Submit(std::move(request), readers.back()); !id.ok()) {
        std::fprintf(stderr, "lift-bench: %s\n", std::string(id.status().message()).c_str());
        std::exit(1);
      }
    }
    Clock::time_point first = Clock::time_point::max(), last = Clock::time_point::min();
    for (const auto& reader : readers) {
      reader->Wait();
      first = std::min(first, reader->first);
      last = std::max(last, reader->last);
      run.tokens += static_cast<int64_t>(reader->ids.size());
      run.answers.push_back(reader->ids);
    }
    seconds += std::chrono::duration<double>(last - first).count();
  }
  run.tokens_per_second = static_cast<double>(run.tokens) / seconds;
  run.stats = engine.speculation();
  return run;
}

nlohmann::json Compare(StepModel& pair, const std::shared_ptr<const Tokenizer>& tokenizer,
                       const Job& job, int64_t length) {
  const Run plain = Answer(pair, tokenizer, job, 0);
  const Run guessing = Answer(pair, tokenizer, job, length);
  const SpeculationStats& s = guessing.stats;
  return {{"target", job.variant},
          {"length", length},
          {"tokens", guessing.tokens},
          {"plain_tokens_per_second", plain.tokens_per_second},
          {"guessing_tokens_per_second", guessing.tokens_per_second},
          {"ratio", guessing.tokens_per_second / plain.tokens_per_second},
          {"looked_up", s.looked_up},
          {"looked_up_accepted", s.looked_up_accepted},
          {"drafted", s.drafted},
          {"drafted_accepted", s.drafted_accepted},
          {"same_tokens", plain.answers == guessing.answers}};
}

void PrintHeader() {
  std::printf("%-8s %-8s %6s %10s %10s %7s %9s %9s %9s %9s\n", "draft", "target", "length",
              "plain/s", "guessing/s", "ratio", "looked up", "accepted", "drafted", "accepted");
}

void PrintRow(const nlohmann::json& row) {
  const auto number = [&](const char* key) { return row[key].get<double>(); };
  const auto percent = [&](const char* part, const char* whole) {
    return number(whole) == 0 ? 0 : 100 * number(part) / number(whole);
  };
  std::printf("%-8s %-8s %6.0f %10.1f %10.1f %7.2f %9.0f %8.0f%% %9.0f %8.0f%%%s\n",
              row["draft"].get<std::string>().c_str(), row["target"].get<std::string>().c_str(),
              number("length"), number("plain_tokens_per_second"),
              number("guessing_tokens_per_second"), number("ratio"), number("looked_up"),
              percent("looked_up_accepted", "looked_up"), number("drafted"),
              percent("drafted_accepted", "drafted"),
              row["same_tokens"].get<bool>() ? "" : "  DIFFERENT TOKENS");
  std::fflush(stdout);
}

bool Chosen(const std::vector<std::string>& names, const std::string& name) {
  return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

SpeculationCommand::SpeculationCommand(CLI::App& app)
    : command_(app.add_subcommand("speculate",
                                  "speed and acceptance of guessing ahead, by pair of variants; "
                                  "answers with and without are compared token by token")) {
  command_->add_option("--model", model_, "lifted file")->required();
  command_->add_option("--draft", drafts_, "variants that guess (default: all)")->delimiter(',');
  command_->add_option("--target", targets_, "variants that answer (default: all)")->delimiter(',');
  command_->add_option("--prompt", prompts_, "to answer (may be repeated)")
      ->allow_extra_args(false);
  command_->add_option("--length", lengths_, "most tokens guessed ahead")->delimiter(',');
  command_->add_option("--tokens", tokens_, "of an answer")->capture_default_str();
  command_->add_option("--streams", streams_, "answers at a time")->check(CLI::Range(1, 256));
  command_->add_option("--temperature", temperature_, "0 = greedy")->capture_default_str();
  command_->add_option("--threads", threads_, "threads (default: all cores)")
      ->check(CLI::Range(1, 1024));
  command_->add_flag("--json", json_, "print one JSON object on stdout");
}

int SpeculationCommand::Run() const {
  ServerConfig config;
  config.model = model_;
  config.threads = threads_;
  const auto serving = LoadServingModel(config);
  if (!serving.ok()) {
    std::fprintf(stderr, "lift-bench: %s\n", std::string(serving.status().message()).c_str());
    return 2;
  }
  StepModel& model = *(*serving)->model;
  std::vector<std::string> prompts = prompts_;
  if (prompts.empty()) prompts.assign(std::begin(kPrompts), std::end(kPrompts));
  Job job;
  job.tokens = tokens_;
  job.streams = streams_;
  job.temperature = temperature_;
  for (const std::string& prompt : prompts) {
    auto ids = (*serving)->tokenizer->Encode(prompt);
    if (!ids.ok()) return 2;
    job.prompts.push_back(*std::move(ids));
  }
  nlohmann::json out = {
      {"tokens", tokens_}, {"streams", streams_}, {"pairs", nlohmann::json::array()}};
  if (!json_) PrintHeader();
  bool same = true;
  const auto variants = model.variants();
  for (int target = 0; target < static_cast<int>(variants.size()); ++target) {
    for (int draft = 0; draft <= target; ++draft) {
      const std::string& from = variants[static_cast<size_t>(draft)].name;
      job.variant = variants[static_cast<size_t>(target)].name;
      if (!Chosen(drafts_, from) || !Chosen(targets_, job.variant)) continue;
      // The finest reads the prompt in all, so that answers can be compared.
      std::set<int> kept = {draft, target, static_cast<int>(variants.size()) - 1};
      VariantSubset pair(model, {kept.begin(), kept.end()});
      for (const int64_t length : lengths_) {
        nlohmann::json row = Compare(pair, (*serving)->tokenizer, job, length);
        row["draft"] = from;
        same = same && row["same_tokens"].get<bool>();
        if (!json_) PrintRow(row);
        out["pairs"].push_back(std::move(row));
      }
    }
  }
  if (json_) std::printf("%s\n", out.dump(2).c_str());
  return same ? 0 : 1;
}

}  // namespace lift::bench
