// Growable scratch memory, 64-byte aligned; growing discards the contents.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <type_traits>

#include "kernels/base/check.h"

namespace lift::cpu {

template <typename T>
class AlignedArray {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  void Reserve(size_t count) {
    if (count <= capacity_) return;
    LIFT_CHECK(count <= SIZE_MAX / 2 / sizeof(T));
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    LIFT_CHECK(data_ != nullptr);
    capacity_ = count;
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](int64_t i) { return data_.get()[i]; }
  const T& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  size_t capacity_ = 0;
};

}  // namespace lift::cpu
