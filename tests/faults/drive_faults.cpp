// Preloaded into the binary: calls on files whose path holds a text fail, hang, are cut short or return a wrong bit, as
// long as a trigger file exists. A drive's faults, seen from the program that was built to be shipped.
//
//   DRIVE_FAULTS="read|write|sync|exchange FILE-PART hang|short|flip|back|ERRNO TRIGGER"
//
// A FILE-PART that ends with `$` is what the path ends with. `exchange`: of names, by the first one's. `hang`: until
// the trigger goes. `flip`: one bit of the first byte. `back`: the wall clock is a day late.
#include <dlfcn.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <string_view>

namespace {

struct Fault {
  std::string call, file, kind, trigger;
};

const Fault& fault() {
  static const Fault given = [] {
    Fault read;
    const char* text = std::getenv("DRIVE_FAULTS");
    std::istringstream(text ? text : "") >> read.call >> read.file >> read.kind >> read.trigger;
    return read;
  }();
  return given;
}

bool is_meant(std::string_view path) {
  const std::string_view part = fault().file;
  return part.ends_with('$') ? path.ends_with(part.substr(0, part.size() - 1)) : path.find(part) != path.npos;
}

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

bool triggered() { return !fault().trigger.empty() && access(fault().trigger.c_str(), F_OK) == 0; }

bool meant(const char* call, int fd) {
  if (fault().call != call || !triggered()) return false;
  char path[4096];
  const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
  return length > 0 && is_meant({path, static_cast<size_t>(length)});
}

void hang() {
  while (triggered()) usleep(10'000);
}

// The number of bytes to move, or -1 with errno set.
ssize_t allowed(size_t bytes) {
  const std::string& kind = fault().kind;
  if (kind == "hang") hang();
  const size_t part = std::max<size_t>(bytes / 3 / 4096 * 4096, std::min<size_t>(bytes, 4096));
  if (kind == "short") return static_cast<ssize_t>(part);
  if (kind == "hang" || kind == "flip") return static_cast<ssize_t>(bytes);
  errno = std::atoi(kind.c_str());
  return -1;
}

}  // namespace

extern "C" {

ssize_t pread(int fd, void* memory, size_t bytes, off_t offset) {
  static const auto real = next<ssize_t (*)(int, void*, size_t, off_t)>("pread");
  if (!meant("read", fd)) return real(fd, memory, bytes, offset);
  const ssize_t may = allowed(bytes);
  if (may < 0) return may;
  const ssize_t moved = real(fd, memory, static_cast<size_t>(may), offset);
  auto& first = *static_cast<unsigned char*>(memory);
  if (fault().kind == "flip" && moved > 0) first = static_cast<unsigned char>(first ^ 1);
  return moved;
}
ssize_t pread64(int fd, void* memory, size_t bytes, off_t offset) { return pread(fd, memory, bytes, offset); }

ssize_t pwrite(int fd, const void* memory, size_t bytes, off_t offset) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite");
  if (!meant("write", fd)) return real(fd, memory, bytes, offset);
  const ssize_t may = allowed(bytes);
  return may < 0 ? may : real(fd, memory, static_cast<size_t>(may), offset);
}
ssize_t pwrite64(int fd, const void* memory, size_t bytes, off_t offset) { return pwrite(fd, memory, bytes, offset); }

int fsync(int fd) {
  static const auto real = next<int (*)(int)>("fsync");
  if (!meant("sync", fd)) return real(fd);
  return allowed(1) < 0 ? -1 : real(fd);
}

int fdatasync(int fd) {
  static const auto real = next<int (*)(int)>("fdatasync");
  if (!meant("sync", fd)) return real(fd);
  return allowed(1) < 0 ? -1 : real(fd);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  static const auto real = next<int (*)(int, const char*, int, const char*, unsigned)>("renameat2");
  const bool meant = fault().call == "exchange" && (flags & RENAME_EXCHANGE) != 0 && triggered() && is_meant(from);
  return meant && allowed(1) < 0 ? -1 : real(from_folder, from, to_folder, to, flags);
}

time_t time(time_t* place) {
  static const auto real = next<time_t (*)(time_t*)>("time");
  const time_t late = fault().kind == "back" && triggered() ? 86400 : 0;
  const time_t now = real(nullptr) - late;
  if (place != nullptr) *place = now;
  return now;
}

int clock_gettime(clockid_t clock, timespec* place) {
  static const auto real = next<int (*)(clockid_t, timespec*)>("clock_gettime");
  const int result = real(clock, place);
  if (clock == CLOCK_REALTIME && fault().kind == "back" && triggered()) place->tv_sec -= 86400;
  return result;
}

}  // extern "C"
