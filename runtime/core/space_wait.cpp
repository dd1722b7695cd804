#include "runtime/core/space_wait.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "runtime/core/console.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

// Where the file system that holds `file` begins: the highest folder on the same device.
fs::path mount_point_of(const fs::path& file) {
  struct stat about {};
  fs::path at = fs::absolute(file).lexically_normal();
  while (stat(at.c_str(), &about) != 0 && at != at.parent_path()) at = at.parent_path();
  for (const dev_t device = about.st_dev; at != at.parent_path(); at = at.parent_path())
    if (stat(at.parent_path().c_str(), &about) != 0 || about.st_dev != device) return at;
  return at;
}

std::string no_room(const fs::path& file, Bytes needed) {
  const fs::path mount = mount_point_of(file);
  struct statvfs space {};
  std::string free = "an unknown rest is free";
  if (statvfs(mount.c_str(), &space) == 0)
    free = to_string(Bytes{static_cast<int64_t>(space.f_bavail * space.f_frsize)}) + " are free";
  return "no space left on the file system " + mount.string() + ": " + file.string() + " needs " + to_string(needed) +
         " more there, " + free;
}

std::string text_of(std::chrono::milliseconds time) {
  return to_string(Microseconds{static_cast<double>(time.count()) * 1e3});
}

}  // namespace

bool is_no_space(int error) { return error == ENOSPC || error == EDQUOT; }

SpacePatience SpacePatience::of(std::chrono::milliseconds timeout) {
  return {timeout, std::min<std::chrono::milliseconds>(std::chrono::seconds(30), timeout / 10), {}, {}, {}};
}

std::optional<Error> SpaceWait::refused(const fs::path& file, Bytes needed) {
  if (std::optional<Error> error = stopped(file, needed)) return error;
  const auto now = Clock::now();
  const bool first = !since_;
  if (first) since_ = now;
  if (now - *since_ >= patience_.timeout) {
    const std::string waited =
        patience_.timeout.count() > 0 ? " (after waiting for " + text_of(patience_.timeout) + ")" : "";
    return Error{ErrorCode::no_space, no_room(file, needed) + waited, "free space there"};
  }
  if (first)
    say("paused: " + no_room(file, needed) + "; trying again every " + text_of(patience_.retry) + ", giving up after " +
        text_of(patience_.timeout));
  retry_at_ = now + patience_.retry;
  return std::nullopt;
}

std::optional<Error> SpaceWait::refused_then_wait(const fs::path& file, Bytes needed) {
  std::optional<Error> error = refused(file, needed);
  while (!error && Clock::now() < retry_at_) {
    std::this_thread::sleep_until(std::min(retry_at_, Clock::now() + kLook));
    error = stopped(file, needed);
  }
  return error;
}

std::optional<Error> SpaceWait::stopped(const fs::path& file, Bytes needed) {
  if (!patience_.stops || !patience_.stops()) return std::nullopt;
  since_.reset();
  return Error{ErrorCode::interrupted, no_room(file, needed), "free space there"};
}

void SpaceWait::made_room() {
  if (!since_) return;
  say("going on: there is space again, after " +
      text_of(std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - *since_)));
  since_.reset();
}

void SpaceWait::say(const std::string& line) const {
  if (patience_.say) return patience_.say(line);
  Console(STDERR_FILENO).say(line);
}

}  // namespace sluice
