// The CUDA backend as tests get it: on the emulator, or on a GPU if there is one.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "kernels/cuda/cuda_backend.h"

#if defined(LIFT_CUDA_EMULATED)
#include "tests/emulator/simt.h"
#endif

namespace lift {

// Runs `body` under every order in which the emulator's threads may take turns: a missing barrier
// gives other results under some. On a GPU, once.
template <typename Body>
void InEveryOrder(const Body& body) {
#if defined(LIFT_CUDA_EMULATED)
  for (const simt::Order order :
       {simt::Order::kDescending, simt::Order::kShuffled, simt::Order::kAscending}) {
    simt::SetOrder(order);
    body();
  }
#else
  body();
#endif
}

}  // namespace lift

#define LIFT_SKIP_WITHOUT_CUDA(backend)                      \
  do {                                                       \
    auto made = lift::MakeCudaBackend();                     \
    if (!made.ok()) GTEST_SKIP() << made.status().message(); \
    (backend) = *std::move(made);                            \
  } while (0)
