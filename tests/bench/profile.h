// Where the time of a step goes: a backend that times the operations of another one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace lift::bench {

// One kind of operation, linear layers by shape. Numbers are sums over the steps.
struct Phase {
  std::string name;
  int64_t calls = 0;
  double bytes = 0;  // planes, weights and attention state it must read; 0 for activations alone
  double seconds = 0;
  // Sign by integer (derived streams counted), or float by float; 0 where bytes are 0.
  double multiply_adds = 0;
};

// Borrows the backend it times, which must outlive it. One step at a time, like any backend.
class ProfilingBackend : public Backend {
 public:
  // In the order in which the phases first ran since Reset.
  virtual const std::vector<Phase>& phases() const = 0;
  virtual void Reset() = 0;
};
std::unique_ptr<ProfilingBackend> MakeProfilingBackend(Backend& timed);

}  // namespace lift::bench
