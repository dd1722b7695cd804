// Weights read from the user's files by commands that hold no arenas, piece by piece.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "models/safetensors.h"
#include "runtime/exec/source_table.h"

namespace sluice::train {

// The runs of a chunk into its staging memory. Throws SetupError naming file and offset.
void read_runs(const std::vector<std::filesystem::path>& files, const exec::SourceChunk& chunk,
               std::span<std::byte> staging);

// A stored tensor in fp32, at most `piece_elements` at a time, in order; the span ends with the call. Throws as above.
using TensorVisit = std::function<void(int64_t begin, std::span<float> values)>;
void read_in_pieces(const std::vector<std::filesystem::path>& files, const models::TensorLocation& tensor,
                    int64_t piece_elements, const TensorVisit& visit);

// Bytes of it as they are stored, from `begin` on. Throws as above.
std::vector<std::byte> read_bytes(const std::vector<std::filesystem::path>& files, const models::TensorLocation& tensor,
                                  int64_t begin, int64_t bytes);

}  // namespace sluice::train
