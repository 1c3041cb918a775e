// One observer that is several.
#pragma once

#include <mutex>
#include <vector>

#include "server/engine/engine.h"

namespace lift {

// Tells each in turn. Borrows them; Add before the engine starts. charging: held while all are told
// of charges, so that accounts of several engines agree after each; may be null.
class ObserverList : public EngineObserver {
 public:
  explicit ObserverList(std::vector<EngineObserver*> observers, std::mutex* charging = nullptr)
      : observers_(std::move(observers)), charging_(charging) {}
  void Add(EngineObserver* observer) { observers_.push_back(observer); }

  void OnAdmitted(const EngineRequest& request) override {
    for (EngineObserver* o : observers_) o->OnAdmitted(request);
  }
  void OnRejected(const EngineRequest& request, const absl::Status& status) override {
    for (EngineObserver* o : observers_) o->OnRejected(request, status);
  }
  void OnDecision(const router::Decision& decision, int variant, double seconds) override {
    for (EngineObserver* o : observers_) o->OnDecision(decision, variant, seconds);
  }
  void OnRouted(const EngineRequest& request, const RoutedEvent& event) override {
    for (EngineObserver* o : observers_) o->OnRouted(request, event);
  }
  void OnFirstToken(int variant, double ttft_seconds) override {
    for (EngineObserver* o : observers_) o->OnFirstToken(variant, ttft_seconds);
  }
  void OnInterToken(int variant, double seconds) override {
    for (EngineObserver* o : observers_) o->OnInterToken(variant, seconds);
  }
  void OnFinished(const EngineRequest& request, const FinishedEvent& event) override {
    for (EngineObserver* o : observers_) o->OnFinished(request, event);
  }
  void OnCharges(std::span<const Charge> charges, unsigned __int128 resident_byte_us) override {
    std::unique_lock<std::mutex> lock;
    if (charging_ != nullptr) lock = std::unique_lock(*charging_);
    for (EngineObserver* o : observers_) o->OnCharges(charges, resident_byte_us);
  }

 private:
  std::vector<EngineObserver*> observers_;
  std::mutex* const charging_;
};

}  // namespace lift
