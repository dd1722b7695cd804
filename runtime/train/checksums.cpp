#include "runtime/train/checksums.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "runtime/core/json_nesting.h"
#include "runtime/core/processor.h"
#include "runtime/core/result.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAlgorithm = "xxh3_64";
constexpr const char* kOwn = "own";
constexpr size_t kBufferBytes = size_t{4} << 20;
// One core hashes about as fast as one drive reads; a few overlap the two, and striped drives feed more than one.
constexpr size_t kThreadsMax = 4;

std::string hex(uint64_t digest) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(digest));
  return text;
}

uint64_t from_hex(const std::string& text) {
  uint64_t digest = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), digest, 16);
  if (error != std::errc() || end != text.data() + text.size() || text != hex(digest))
    throw SetupError("'" + text + "' is not a checksum", "");
  return digest;
}

int64_t bytes_in(const nlohmann::ordered_json& json, const char* key) {
  const nlohmann::ordered_json& value = json.at(key);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > std::numeric_limits<int64_t>::max())
    throw SetupError(std::string("'") + key + "' is no number of bytes", "");
  return value.get<int64_t>();
}

// Every byte is in one part: what none covers could be damaged unseen.
void check_coverage(const FileSums& sums) {
  std::vector<std::pair<int64_t, int64_t>> ranges;  // offset, bytes
  for (const FilePart& part : sums.parts) ranges.emplace_back(part.offset, part.bytes);
  std::sort(ranges.begin(), ranges.end());
  int64_t covered = 0;
  for (const auto& [offset, bytes] : ranges) {
    if (offset != covered || bytes > sums.bytes - covered) {
      covered = -1;
      break;
    }
    covered += bytes;
  }
  if (covered != sums.bytes) throw SetupError("the parts of a file are not the whole of it", "");
}

// What the sums themselves were when they were written; absent from those of old. `json` is without it afterwards.
void check_own(nlohmann::ordered_json& json) {
  for (const auto& [key, value] : json.items())
    if (key != "algorithm" && key != "files" && key != kOwn) throw SetupError("'" + key + "' is not known", "");
  if (!json.contains(kOwn)) return;
  const uint64_t written = from_hex(json.at(kOwn).get<std::string>());
  json.erase(kOwn);
  const std::string rest = json.dump();
  if (XXH3_64bits(rest.data(), rest.size()) != written) throw SetupError("its checksum does not match", "");
}

FileSums file_sums_from(const nlohmann::ordered_json& json) {
  FileSums sums;
  sums.bytes = bytes_in(json, "bytes");
  for (const nlohmann::ordered_json& part : json.at("parts"))
    sums.parts.push_back({part.at("name").get<std::string>(), bytes_in(part, "offset"), bytes_in(part, "bytes"),
                          from_hex(part.at("xxh3").get<std::string>())});
  check_coverage(sums);
  return sums;
}

// A checkpoint may come from elsewhere: it says what its own files hold, and sends nobody to others.
void check_inside(const std::string& name) {
  const fs::path path(name);
  if (name.empty() || path.is_absolute() || std::find(path.begin(), path.end(), "..") != path.end())
    throw SetupError("'" + name + "' is no file of the checkpoint's folder", "");
}

// A part to verify, and where.
struct Task {
  const std::string* file;
  const FilePart* part;
};

class OpenFile {
 public:
  explicit OpenFile(const fs::path& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~OpenFile() {
    if (fd_ >= 0) close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string unreadable(const fs::path& path, int error) {
  return path.string() + " cannot be read: " + std::strerror(error);
}

std::optional<std::string> damage_of(const fs::path& folder, const Task& task, std::span<std::byte> buffer) {
  const fs::path path = folder / *task.file;
  const OpenFile file(path);
  if (file.get() < 0) return unreadable(path, errno);
  const FilePart& part = *task.part;
  RunningSum sum;
  while (sum.bytes() < part.bytes) {
    const auto wanted = static_cast<size_t>(std::min(part.bytes - sum.bytes(), static_cast<int64_t>(buffer.size())));
    const ssize_t got = pread(file.get(), buffer.data(), wanted, part.offset + sum.bytes());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return unreadable(path, got == 0 ? EIO : errno);
    sum.add(buffer.first(static_cast<size_t>(got)));
  }
  if (sum.digest() == part.digest) return std::nullopt;
  if (part.name.empty()) return path.string() + " is damaged: its checksum does not match";
  return path.string() + " is damaged: the checksum of '" + part.name + "' (bytes " + std::to_string(part.offset) +
         " to " + std::to_string(part.offset + part.bytes) + ") does not match";
}

std::optional<std::string> wrong_size(const fs::path& folder, const Checksums& sums) {
  for (const auto& [name, file] : sums) {
    std::error_code failed;
    const uintmax_t bytes = fs::file_size(folder / name, failed);
    if (failed) return unreadable(folder / name, failed.value());
    if (bytes != static_cast<uintmax_t>(file.bytes))
      return (folder / name).string() + " is damaged: it has " + std::to_string(bytes) + " bytes, " +
             std::to_string(file.bytes) + " were written";
  }
  return std::nullopt;
}

}  // namespace

RunningSum::RunningSum() : state_(XXH3_createState()) {
  SLUICE_CHECK(state_ != nullptr, "no memory for a checksum's state");
  XXH3_64bits_reset(state_.get());
}
void RunningSum::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }
void RunningSum::add(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_.get(), bytes.data(), bytes.size());
  bytes_ += static_cast<int64_t>(bytes.size());
}
uint64_t RunningSum::digest() const { return XXH3_64bits_digest(state_.get()); }

FileSums sums_of(std::string_view text) {
  const auto bytes = static_cast<int64_t>(text.size());
  return {bytes, {{"", 0, bytes, XXH3_64bits(text.data(), text.size())}}};
}

std::string to_json(const Checksums& sums) {
  nlohmann::ordered_json files = nlohmann::ordered_json::object();
  for (const auto& [name, file] : sums) {
    nlohmann::ordered_json parts = nlohmann::ordered_json::array();
    for (const FilePart& part : file.parts)
      parts.push_back(
          {{"name", part.name}, {"offset", part.offset}, {"bytes", part.bytes}, {"xxh3", hex(part.digest)}});
    files[name] = {{"bytes", file.bytes}, {"parts", std::move(parts)}};
  }
  nlohmann::ordered_json json = {{"algorithm", kAlgorithm}, {"files", std::move(files)}};
  json[kOwn] = hex(sums_of(json.dump()).parts.front().digest);
  return json.dump(1) + "\n";
}

Checksums read_checksums(const fs::path& file) {
  std::ifstream stream(file);
  if (!stream) throw SetupError(unreadable(file, errno), "");
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  try {
    if (nests_too_deep(text)) throw SetupError("it nests too deep", "");
    auto json = nlohmann::ordered_json::parse(text);
    check_own(json);
    if (json.at("algorithm") != kAlgorithm)
      throw SetupError("checksums of the kind " + json.at("algorithm").dump() + " are not known", "");
    Checksums sums;
    for (const auto& [name, entry] : json.at("files").items()) {
      check_inside(name);
      sums[name] = file_sums_from(entry);
    }
    return sums;
  } catch (const nlohmann::json::exception& error) {
    throw SetupError(file.string() + " is damaged: " + error.what(), "");
  } catch (const SetupError& error) {
    throw SetupError(file.string() + " is damaged: " + error.error().message, "");
  }
}

std::optional<std::string> find_damage(const fs::path& folder, const Checksums& sums, const Advance& verified) {
  if (std::optional<std::string> wrong = wrong_size(folder, sums)) return wrong;
  std::vector<Task> tasks;
  for (const auto& [name, file] : sums)
    for (const FilePart& part : file.parts) tasks.push_back({&name, &part});

  // Tasks are taken in order and every one taken is finished: the first damage is found whatever the timing.
  std::vector<std::optional<std::string>> found(tasks.size());
  std::atomic<size_t> next = 0;
  std::atomic<bool> damaged = false;
  const auto work = [&] {
    std::vector<std::byte> buffer(kBufferBytes);
    while (!damaged) {
      const size_t i = next++;
      if (i >= tasks.size()) return;
      found[i] = damage_of(folder, tasks[i], buffer);
      if (found[i]) damaged = true;
      if (verified) verified(tasks[i].part->bytes);
    }
  };
  {
    const auto cores = static_cast<size_t>(usable_cores());
    std::vector<std::jthread> threads;
    for (size_t i = 1; i < std::min({kThreadsMax, cores, tasks.size()}); ++i) threads.emplace_back(work);
    work();
  }
  for (std::optional<std::string>& each : found)
    if (each) return std::move(each);
  return std::nullopt;
}

}  // namespace sluice::train
