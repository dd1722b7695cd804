// What a writer does about a full file system: says which one and what is needed there, waits for room, and gives up
// in the end. A full drive loses nothing as long as somebody may still make room.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "runtime/core/call_watch.h"
#include "runtime/core/result.h"
#include "runtime/core/units.h"

namespace sluice {

// How a writer bears with its drive: how long it waits for room, and who hears of it. The default does not wait at all.
struct SpacePatience {
  std::chrono::milliseconds timeout{0};
  std::chrono::milliseconds retry{0};
  std::function<void(const std::string&)> say;  // a line for people, from the waiting thread; empty: to stderr
  std::function<bool()> stops;  // whether the run is asked to stop: nobody waits any more; any thread; empty: never
  // Of calls that block. Shared by all the writers of a run; the last one ends its thread.
  std::shared_ptr<CallWatch> watch;

  // Tries again every 30 s, and within a short timeout ten times.
  static SpacePatience of(std::chrono::milliseconds timeout);
};

// errno of a file system that, or whose quota, is full.
bool is_no_space(int error);

// One full drive, from the first refusal to the write that goes through. Not thread-safe.
class SpaceWait {
 public:
  using Clock = std::chrono::steady_clock;

  explicit SpaceWait(SpacePatience patience) : patience_(std::move(patience)) {}

  // How often somebody who waits should look whether the run is asked to stop.
  static constexpr std::chrono::milliseconds kLook{100};

  // `file` cannot take `needed` more bytes. The first time it says so; then wait until retry_at() and try again. An
  // error, which names file system, need and what is free, when patience has ended (no_space) or the run is asked to
  // stop (interrupted).
  std::optional<Error> refused(const std::filesystem::path& file, Bytes needed);
  // That of a run that is asked to stop.
  std::optional<Error> stopped(const std::filesystem::path& file, Bytes needed);
  // The same, and blocks until then.
  std::optional<Error> refused_then_wait(const std::filesystem::path& file, Bytes needed);
  Clock::time_point retry_at() const { return retry_at_; }
  // A write went through. Says that the run goes on, where it had waited.
  void made_room();

 private:
  void say(const std::string& line) const;

  SpacePatience patience_;
  std::optional<Clock::time_point> since_;
  Clock::time_point retry_at_;
};

}  // namespace sluice
