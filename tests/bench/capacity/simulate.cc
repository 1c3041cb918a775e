#include "tests/bench/capacity/simulate.h"

#include <algorithm>
#include <limits>

namespace lift::bench {
namespace {

struct Live {
  size_t request = 0;
  int64_t unread = 0, left = 0, held = 0;  // prompt tokens, answer tokens, tokens of state
};

class Engine {
 public:
  Engine(const std::vector<Arrival>& arrivals, const StepCosts& costs, const Replica& replica)
      : arrivals_(arrivals), costs_(costs), replica_(replica) {
    out_.requests.resize(arrivals.size());
  }

  Simulation Run() {
    while (next_ < arrivals_.size() || !live_.empty()) {
      if (live_.empty()) clock_ = std::max(clock_, arrivals_[next_].seconds);
      Admit();
      Step();
    }
    out_.seconds = clock_;
    for (const SimulatedRequest& r : out_.requests) out_.sequence_seconds += r.end - r.arrival;
    return std::move(out_);
  }

 private:
  void Admit() {
    while (next_ < arrivals_.size() && arrivals_[next_].seconds <= clock_ &&
           static_cast<int64_t>(live_.size()) < replica_.max_batch) {
      const Arrival& a = arrivals_[next_];
      out_.requests[next_] = {a.seconds, clock_, 0, 0, a.prompt_tokens, a.output_tokens};
      live_.push_back({next_, a.prompt_tokens, a.output_tokens, 0});
      ++next_;
    }
  }

  void Step() {
    int64_t room = replica_.prefill_chunk, read = 0, decoding = 0, held = 0;
    gives_.assign(live_.size(), false);
    for (size_t i = 0; i < live_.size(); ++i) {
      Live& sequence = live_[i];
      if (sequence.unread == 0) {
        ++decoding;
        ++sequence.held;
        gives_[i] = true;
      } else {
        const int64_t now = std::min(sequence.unread, room);
        room -= now;
        read += now;
        sequence.unread -= now;
        sequence.held += now;
        gives_[i] = sequence.unread == 0;
      }
      held += sequence.held;
    }
    const double seconds = costs_.Seconds(decoding, read);
    clock_ += seconds;
    out_.busy_seconds += seconds;
    out_.token_seconds += seconds * static_cast<double>(held);
    out_.most_tokens_held = std::max(out_.most_tokens_held, held);
    out_.read_tokens += read;
    ++out_.step_count;
    if (decoding > 0) out_.steps.push_back(seconds);
    Deliver();
  }

  void Deliver() {
    size_t kept = 0;
    for (size_t i = 0; i < live_.size(); ++i) {
      Live sequence = live_[i];
      SimulatedRequest& request = out_.requests[sequence.request];
      if (gives_[i]) {
        if (sequence.left == request.output_tokens) request.first_token = clock_;
        --sequence.left;
        ++out_.generated_tokens;
      }
      if (sequence.left == 0) {
        request.end = clock_;
      } else {
        live_[kept++] = sequence;
      }
    }
    live_.resize(kept);
  }

  const std::vector<Arrival>& arrivals_;
  const StepCosts& costs_;
  const Replica& replica_;
  Simulation out_;
  std::vector<Live> live_;
  std::vector<bool> gives_;
  double clock_ = 0;
  size_t next_ = 0;
};

}  // namespace

Simulation Simulate(const std::vector<Arrival>& arrivals, const StepCosts& costs,
                    const Replica& replica) {
  return Engine(arrivals, costs, replica).Run();
}

}  // namespace lift::bench
