#include "runtime/exec/arena.h"

#include <gtest/gtest.h>

namespace sluice::exec {
namespace {

plan::Buffer buffer_at(int64_t offset, int64_t bytes) {
  return {Tier::host, plan::Tag::workspace, offset, bytes, bytes, false, plan::BufferName("test")};
}

TEST(Arena, HighWaterIsTheEndOfTheHighestLeaseEverTaken) {
  Arena arena(KiB(64));
  EXPECT_EQ(arena.high_water().count, 0);
  { const Lease high = arena.lease(buffer_at(8192, 4096)); }
  const Lease low = arena.lease(buffer_at(0, 4096));
  EXPECT_EQ(arena.high_water().count, 12288);
}

TEST(Arena, CountsLeasesThatAreStillHeld) {
  Arena arena(KiB(64));
  Lease one = arena.lease(buffer_at(0, 4096));
  {
    const Lease two = arena.lease(buffer_at(4096, 4096));
    EXPECT_EQ(arena.live(), 2);
  }
  Lease moved = std::move(one);
  EXPECT_EQ(arena.live(), 1);
}

TEST(ArenaDeathTest, RefusesALeasePastItsEnd) {
  Arena arena(KiB(4));
  EXPECT_DEATH(static_cast<void>(arena.lease(buffer_at(4096, 4096))), "outside its arena");
}

TEST(Arena, MemoryIsPageAligned) {
  Arena arena(KiB(4));
  const Lease lease = arena.lease(buffer_at(0, 4096));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(lease.memory().data()) % 4096, 0u);
}

}  // namespace
}  // namespace sluice::exec
