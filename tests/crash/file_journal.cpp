#include "tests/crash/file_journal.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <unordered_set>

namespace sluice::crash {
namespace {

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

int64_t size_of_file(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) fail("fstat");
  return status.st_size;
}

// Without the zeros at its end: reserved space costs nothing to remember.
std::vector<std::byte> read_bytes(int fd, int64_t offset, int64_t bytes) {
  std::vector<std::byte> content(static_cast<size_t>(std::max<int64_t>(bytes, 0)));
  size_t got = 0;
  while (got < content.size()) {
    const ssize_t part = pread(fd, content.data() + got, content.size() - got, offset + static_cast<int64_t>(got));
    if (part < 0 && errno != EINTR) fail("pread");
    if (part == 0) break;
    if (part > 0) got += static_cast<size_t>(part);
  }
  while (got > 0 && content[got - 1] == std::byte{0}) --got;
  content.resize(got);
  content.shrink_to_fit();
  return content;
}

void write_bytes(int fd, int64_t offset, const std::vector<std::byte>& content) {
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t part = pwrite(fd, content.data() + done, content.size() - done, offset + static_cast<int64_t>(done));
    if (part <= 0 && errno != EINTR) fail("pwrite");
    if (part > 0) done += static_cast<size_t>(part);
  }
}

}  // namespace

std::optional<Fault> fault_named(const std::string& name) {
  if (name == "killed") return Fault::killed;
  if (name == "dropped") return Fault::dropped;
  if (name == "reordered") return Fault::reordered;
  if (name == "torn") return Fault::torn;
  return std::nullopt;
}

uint64_t FileJournal::add(int fd, int64_t offset, int64_t bytes, int64_t size) {
  records_.push_back(
      {++moment_, offset, bytes, read_bytes(fd, offset, std::min(bytes, size - offset)), size, Clock::now()});
  return moment_;
}

uint64_t FileJournal::begin_write(int fd, int64_t offset, int64_t bytes) {
  return add(fd, offset, bytes, size_of_file(fd));
}

uint64_t FileJournal::begin_resize(int fd, int64_t bytes) {
  const int64_t size = size_of_file(fd);
  return add(fd, std::min(bytes, size), std::max<int64_t>(size - bytes, 0), size);
}

void FileJournal::end(uint64_t ticket) {
  const auto record =
      std::find_if(records_.rbegin(), records_.rend(), [&](const Record& each) { return each.ticket == ticket; });
  if (record != records_.rend()) record->end = ++moment_;
}

void FileJournal::synced(uint64_t until) {
  std::erase_if(records_, [&](const Record& record) { return record.end && *record.end <= until; });
}

void FileJournal::written_back(Clock::time_point until) {
  std::erase_if(records_, [&](const Record& record) { return record.end && record.time < until; });
}

int64_t FileJournal::lose(int fd, Fault fault, std::mt19937_64& random) {
  if (records_.empty() || fault == Fault::killed) return 0;
  // Sometimes nearly all of it is lost, sometimes nearly nothing.
  const double share = std::uniform_real_distribution<>(0, 1)(random);
  const auto is_lost = [&] { return fault == Fault::dropped || std::bernoulli_distribution(share)(random); };
  std::vector<int64_t> sizes = {size_of_file(fd)};
  std::unordered_set<int64_t> settled;  // sectors whose newest surviving write is found
  int64_t writes_lost = 0;
  for (auto record = records_.rbegin(); record != records_.rend(); ++record) {
    sizes.push_back(record->old_size);
    const bool whole_lost = is_lost();
    bool lost = false;
    for (int64_t at = record->offset, end = record->offset + record->bytes; at < end;) {
      const int64_t sector = at / kSectorBytes, next = std::min(end, (sector + 1) * kSectorBytes);
      if (!settled.contains(sector)) {
        if (fault == Fault::torn ? is_lost() : whole_lost) {
          std::vector<std::byte> old(static_cast<size_t>(next - at));
          for (size_t i = 0, from = static_cast<size_t>(at - record->offset); i < old.size(); ++i)
            if (from + i < record->old.size()) old[i] = record->old[from + i];
          write_bytes(fd, at, old);
          lost = true;
        } else {
          settled.insert(sector);
        }
      }
      at = next;
    }
    writes_lost += lost;
  }
  // A size is of the file, not of its sectors: any that it had may be the one on the drive.
  const bool newest = fault != Fault::dropped && std::bernoulli_distribution(0.5)(random);
  const size_t chosen = newest                    ? 0
                        : fault == Fault::dropped ? sizes.size() - 1
                                                  : std::uniform_int_distribution<size_t>(0, sizes.size() - 1)(random);
  if (ftruncate(fd, sizes[chosen]) != 0) fail("ftruncate");
  records_.clear();
  return writes_lost;
}

}  // namespace sluice::crash
