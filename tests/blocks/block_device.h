// What block_runner computes on, and how the host reaches what lies there.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/ops/ops.h"

namespace sluice::block_device {

// Why it cannot be used here; empty: it can.
std::string missing();
std::unique_ptr<models::Ops> make_ops();
// 64-byte aligned.
std::byte* allocate(int64_t bytes);
void release(std::byte* memory);
// Both wait until all that was asked for before is done.
void write(std::byte* to, std::span<const std::byte> from);
std::vector<std::byte> read(const std::byte* from, int64_t bytes);
// Blocks until all that was asked for is done.
void finish();

}  // namespace sluice::block_device
