// Deficit round robin over tenants: who is owed service, counted in bytes x time and not in
// requests.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace lift {

// Every tenant with live requests has a credit in byte-microseconds. What it is charged lowers it;
// when the best served-least tenant has none left, a round begins and everyone gets what that one
// lacks. So the best active credit is 0, and nobody saves up by staying away: a tenant joins with
// 0, or with the debt it left with less what later rounds forgave. Engine thread only.
class FairShare {
 public:
  void Join(const std::string& tenant);                    // one more live request
  void Leave(const std::string& tenant);                   // one less
  void Charge(const std::string& tenant, double byte_us);  // unknown tenants are ignored
  void Round();                                            // after charging
  double credit(const std::string& tenant) const;          // <= 0
  size_t size() const { return accounts_.size(); }         // tenants active or in debt

 private:
  struct Account {
    int64_t live = 0;
    double credit = 0;
  };
  std::map<std::string, Account> accounts_;
};

}  // namespace lift
