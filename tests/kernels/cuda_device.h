// The CUDA backend as tests get it: on the emulator, or on a GPU if there is one.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kernels/cuda/cuda_backend.h"

#if defined(LIFT_CUDA_EMULATED)
#include "tests/emulator/simt.h"
#endif

namespace lift {

// Orders in which the emulator runs threads: a missing barrier gives other results under some.
#if defined(LIFT_CUDA_EMULATED)
using DeviceOrder = simt::Order;
inline std::vector<DeviceOrder> DeviceOrders() {
  return {simt::Order::kDescending, simt::Order::kShuffled, simt::Order::kAscending};
}
inline void SetDeviceOrder(DeviceOrder order) { simt::SetOrder(order); }
#else
enum class DeviceOrder { kOfTheDevice };
inline std::vector<DeviceOrder> DeviceOrders() { return {DeviceOrder::kOfTheDevice}; }
inline void SetDeviceOrder(DeviceOrder) {}
#endif

}  // namespace lift

#define LIFT_SKIP_WITHOUT_CUDA(backend)                      \
  do {                                                       \
    auto made = lift::MakeCudaBackend();                     \
    if (!made.ok()) GTEST_SKIP() << made.status().message(); \
    (backend) = *std::move(made);                            \
  } while (0)
