// Moves bytes between host memory and files, checked to the last byte.
//
// Owned and called by one thread (the driver); `io` threads own the rings. Nothing here blocks except
// `wait`. Every transfer ends in exactly one Completion, which carries its result: the caller must read it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/result.h"
#include "runtime/core/space_wait.h"
#include "runtime/core/units.h"
#include "swap/extent_space.h"

namespace sluice::swap {

enum class BackendKind { automatic, uring, thread };

struct SwapOptions {
  BackendKind backend = BackendKind::automatic;   // uring where the kernel lets us, else thread
  std::vector<std::filesystem::path> nvme_paths;  // folders; extents are striped over them
  Bytes request_bytes = MiB(4);                   // a transfer is cut into requests of at most this
  int queue_depth = 32;                           // requests in flight per path
  Bytes stripe_bytes = MiB(4);
  SpacePatience patience;             // with a drive that has no room for a write
  std::string file_name = "extents";  // in each path's swap folder
  bool adopts = false;  // a file of that name holds what checkpoints name: it goes on. Else it is replaced
};

// A range reserved in the swap folder (striped, checksummed).
using ExtentId = int32_t;
// A file that is only read: the user's safetensors.
using SourceId = int32_t;
// A set of pieces that a checkpoint names.
using FrozenId = int32_t;

struct Completion {
  uint64_t token = 0;  // the caller's
  Result<void> result;
};

struct SwapCounters {
  int64_t read_bytes = 0;
  int64_t write_bytes = 0;
  int64_t requests = 0;
  int64_t resubmitted = 0;  // short transfers, EINTR, EAGAIN
};

class IoBackend;

class SwapEngine {
 public:
  // Creates (0700) and locks `<path>/sluice-swap` in every nvme_path; throws SetupError with the fix.
  explicit SwapEngine(const SwapOptions& options);
  // For tests: requests go through what `wrap` makes of the chosen backend.
  using WrapBackend = std::function<std::unique_ptr<IoBackend>(std::unique_ptr<IoBackend>)>;
  SwapEngine(const SwapOptions& options, const WrapBackend& wrap);
  ~SwapEngine();  // waits for what is in flight; deletes its swap files unless they are kept
  SwapEngine(const SwapEngine&) = delete;
  SwapEngine& operator=(const SwapEngine&) = delete;

  // What was lost against the best set-up, one line each with its fix ("memlock is 8 MiB: buffers not registered;
  // ...").
  const std::vector<std::string>& warnings() const;
  BackendKind backend() const;  // the one in use

  // Reserves (fallocate) `bytes`, any length. All before step 0. Throws SetupError when the disk is too small,
  // with what is needed and free. O_DIRECT where the file system allows it.
  ExtentId create_extent(Bytes bytes, std::string_view tag);
  // The same where its bytes lie already, as a checkpoint in place has them, with their checksums: it is written, and
  // they stay what they are until it is written again. Once, of pieces that nobody holds.
  ExtentId create_extent_at(Bytes bytes, std::span<const Piece> pieces);
  SourceId open_source(const std::filesystem::path& file);

  // --- checkpoints: what is frozen is not written until it is released; its extents go on in other places --------
  // Of files that were there: pieces that checkpoints name. Before extents are created.
  FrozenId adopt(std::vector<Piece> pieces);
  // Room beside all extents, for the writes of those that are frozen. Throws SetupError as create_extent.
  void reserve(Bytes spare, std::string_view tag);
  // Blocks until all that was written survives a power cut, on a full drive too. Nothing may be in flight.
  Result<void> sync();
  // Each was written (is_written), none is in flight.
  FrozenId freeze(std::span<const ExtentId> extents);
  void release(FrozenId frozen);
  bool is_written(ExtentId extent) const;
  std::span<const Piece> pieces(ExtentId extent) const;  // valid until its next write
  Bytes held() const;                                    // by extents and checkpoints
  std::filesystem::path file(int path) const;            // that pieces of a path lie in
  // Whether the swap files stay at the end; what only extents hold goes back to the drive then.
  void keep_files(bool keeps);
  // Host memory that transfers will use; registered with the ring when the memlock limit allows.
  void register_memory(std::span<std::byte> memory);

  // Transfers a whole extent. `memory`: 4096-byte aligned and at least round_up(extent bytes, 4096) long
  // (the tail is used as padding). Writing records a checksum; reading verifies it: a mismatch is
  // ErrorCode::corrupt naming file and offset. Reading an extent never written is a CHECK failure.
  // One transfer of an extent at a time. The memory belongs to the engine until the Completion.
  void read(ExtentId extent, std::span<std::byte> memory, uint64_t token);
  void write(ExtentId extent, std::span<const std::byte> memory, uint64_t token);
  // Reads the 4096-aligned superset of [offset, offset + bytes) of a source into `memory` (4096-byte aligned, of
  // source_span(offset, bytes) length; past the end of the file is left as it was). The wanted bytes start at
  // memory[offset % 4096]. Works on files where O_DIRECT is refused and at the unaligned end of a file.
  void read_source(SourceId source, int64_t offset, int64_t bytes, std::span<std::byte> memory, uint64_t token);
  static int64_t source_span(int64_t offset, int64_t bytes) {
    return round_up(offset + bytes, 4096) - round_down(offset, 4096);
  }

  // Writes that wait for room on a full drive (SwapOptions::patience) end with their error; so will later ones. For a
  // caller that has failed elsewhere and wants to come to rest.
  void stop_waiting_for_space();

  // What keeps a transfer from its end, for people: "4.00 MiB at offset 0 of FILE, and 3 more". Asks the io thread.
  std::string waits_for(uint64_t token);

  // Completions so far (oldest first), without blocking.
  std::vector<Completion> poll();
  // Blocks until there is at least one completion or the timeout passed; then as poll.
  std::vector<Completion> wait(std::chrono::microseconds timeout);
  // Readable when completions are waiting (eventfd), for an event loop that waits for other things too.
  int event_fd() const;

  SwapCounters counters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::swap
