// What block_runner computes on: the cpu, or a GPU with memory that both sides reach.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "models/ops/ops.h"

namespace sluice::block_device {

// Why it cannot be used here; empty: it can.
std::string missing();
std::unique_ptr<models::Ops> make_ops();
// 64-byte aligned.
std::byte* allocate(int64_t bytes);
void release(std::byte* memory);
// Blocks until all that was asked for is done.
void finish();

}  // namespace sluice::block_device
