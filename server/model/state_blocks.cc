// Blocks of state out of the pool and back: a block is the same stretch of every layer's cache.
#include "kernels/base/check.h"
#include "server/model/transformer_impl.h"

namespace lift {

void Transformer::SaveBlock(int32_t block, std::span<std::byte> out) {
  LIFT_CHECK(static_cast<int64_t>(out.size()) == bytes_per_block());
  const size_t part = out.size() / impl_->caches.size();
  for (size_t i = 0; i < impl_->caches.size(); ++i) {
    impl_->backend.Download(impl_->caches[i]->as<std::byte>() + static_cast<size_t>(block) * part,
                            part, out.data() + i * part);
  }
}

void Transformer::RestoreBlock(int32_t block, std::span<const std::byte> in) {
  LIFT_CHECK(static_cast<int64_t>(in.size()) == bytes_per_block());
  const size_t part = in.size() / impl_->caches.size();
  for (size_t i = 0; i < impl_->caches.size(); ++i) {
    impl_->backend.Upload(in.data() + i * part, part,
                          impl_->caches[i]->as<std::byte>() + static_cast<size_t>(block) * part);
  }
}

}  // namespace lift
