#include <cstdlib>

#include "tests/blocks/block_device.h"

namespace sluice::block_device {

std::string missing() { return ""; }
std::unique_ptr<models::Ops> make_ops() { return models::cpu_ops(); }
std::byte* allocate(int64_t bytes) {
  return static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>(bytes)));
}
void release(std::byte* memory) { std::free(memory); }
void finish() {}

}  // namespace sluice::block_device
