#include <algorithm>
#include <cstdlib>

#include "tests/blocks/block_device.h"

namespace sluice::block_device {

std::string missing() { return ""; }
std::unique_ptr<models::Ops> make_ops() { return models::cpu_ops(); }
std::byte* allocate(int64_t bytes) {
  return static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>(bytes)));
}
void release(std::byte* memory) { std::free(memory); }
void write(std::byte* to, std::span<const std::byte> from) { std::copy(from.begin(), from.end(), to); }
std::vector<std::byte> read(const std::byte* from, int64_t bytes) { return {from, from + bytes}; }
void finish() {}

}  // namespace sluice::block_device
