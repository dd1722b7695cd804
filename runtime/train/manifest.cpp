#include "runtime/train/manifest.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "runtime/core/json_nesting.h"
#include "runtime/core/result.h"
#include "runtime/core/units.h"
#include "runtime/train/checkpoint_folders.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kFormat = "sluice-manifest-1";
constexpr int64_t kPageBytes = 4096;
// Pieces are a few MiB: so many reads in flight reach what a drive can give.
constexpr size_t kReadersMax = 8;

std::string hex(uint64_t digest) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(digest));
  return text;
}

void require(bool good, const std::string& what) {
  if (!good) throw SetupError(what, "");
}

uint64_t digest_from(const json& value) {
  const auto& text = value.get_ref<const std::string&>();
  uint64_t digest = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), digest, 16);
  require(text.size() == 16 && error == std::errc() && end == text.data() + text.size(),
          "'" + text + "' is no checksum");
  return digest;
}

int64_t count_from(const json& value, const char* what) {
  require(value.is_number_unsigned() && value.get<uint64_t>() <= std::numeric_limits<int64_t>::max() / 2,
          std::string(what) + " is no count");
  return value.get<int64_t>();
}

bool lies_in(const fs::path& file, const fs::path& folder) {
  const fs::path from = file.lexically_relative(folder);
  return !from.empty() && *from.begin() != "..";
}

ordered_json file_json(const fs::path& file, const fs::path& checkpoint) {
  ordered_json entry = {{"path", file.string()}};
  const fs::path output_dir = fs::weakly_canonical(checkpoint).parent_path(), real = fs::weakly_canonical(file);
  if (lies_in(real, output_dir)) entry["beside"] = (".." / real.lexically_relative(output_dir)).string();
  return entry;
}

fs::path file_from(const json& entry, const fs::path& checkpoint) {
  const fs::path file = entry.at("path").get<std::string>();
  require(file.is_absolute(), "'" + file.string() + "' is no absolute path");
  if (!entry.contains("beside")) return file;
  const fs::path beside = checkpoint / entry.at("beside").get<std::string>();
  return fs::exists(beside) ? fs::weakly_canonical(beside) : file;
}

ordered_json extent_json(const ManifestExtent& extent) {
  ordered_json parts = ordered_json::object(), pieces = ordered_json::array();
  for (const ManifestPart& part : extent.parts) parts[part.name] = {part.dtype, part.begin, part.count, part.offset};
  for (const ManifestPiece& piece : extent.pieces)
    pieces.push_back({piece.file, piece.offset, piece.bytes, hex(piece.digest)});
  return {{"name", extent.name},   {"group", extent.group},     {"begin", extent.begin},      {"end", extent.end},
          {"bytes", extent.bytes}, {"parts", std::move(parts)}, {"pieces", std::move(pieces)}};
}

ManifestExtent extent_from(const json& entry, size_t files) {
  ManifestExtent extent;
  extent.name = entry.at("name").get<std::string>();
  extent.group = entry.at("group").get<std::string>();
  extent.begin = count_from(entry.at("begin"), "begin");
  extent.end = count_from(entry.at("end"), "end");
  extent.bytes = count_from(entry.at("bytes"), "bytes");
  require(extent.begin < extent.end && extent.bytes > 0, "the extent " + extent.name + " is empty");
  for (const auto& [name, part] : entry.at("parts").items()) {
    require(part.is_array() && part.size() == 4, "a part of " + extent.name + " is not four values");
    extent.parts.push_back({name, part[0].get<std::string>(), count_from(part[1], "begin"),
                            count_from(part[2], "count"), count_from(part[3], "offset")});
  }
  int64_t bytes = 0;
  for (const json& piece : entry.at("pieces")) {
    require(piece.is_array() && piece.size() == 4, "a piece of " + extent.name + " is not four values");
    const ManifestPiece& read = extent.pieces.emplace_back(
        ManifestPiece{static_cast<int>(std::min<int64_t>(count_from(piece[0], "file"), 1 << 20)),
                      count_from(piece[1], "offset"), count_from(piece[2], "bytes"), digest_from(piece[3])});
    require(static_cast<size_t>(read.file) < files, "a piece of " + extent.name + " lies in a file that is not named");
    require(read.bytes > 0 && read.bytes % kPageBytes == 0 && read.offset % kPageBytes == 0,
            "a piece of " + extent.name + " is not whole pages");
    bytes += read.bytes;
    require(bytes <= std::numeric_limits<int64_t>::max() / 2, extent.name + " is too long");
  }
  require(bytes == round_up(extent.bytes, kPageBytes), "the pieces of " + extent.name + " are not the whole of it");
  return extent;
}

// A swap file, read past the page cache where that can be: the drive's bytes, not what memory remembers of them.
class SwapReader {
 public:
  explicit SwapReader(fs::path path) : path_(std::move(path)) {
    fd_ = open(path_.c_str(), O_RDONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);
    if (fd_ < 0 && errno == EINVAL) fd_ = open(path_.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd_ < 0) error_ = errno;
  }
  ~SwapReader() {
    if (fd_ >= 0) close(fd_);
  }
  SwapReader(const SwapReader&) = delete;
  SwapReader& operator=(const SwapReader&) = delete;

  const fs::path& path() const { return path_; }
  int open_error() const { return error_; }
  // errno; 0: all there; EIO also where the file ends before.
  int read(int64_t offset, std::span<std::byte> to) const {
    while (!to.empty()) {
      const ssize_t got = pread(fd_, to.data(), to.size(), offset);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return got == 0 ? EIO : errno;
      to = to.subspan(static_cast<size_t>(got));
      offset += got;
    }
    return 0;
  }

 private:
  fs::path path_;
  int fd_ = -1, error_ = 0;
};

// Page-aligned, as O_DIRECT wants it.
class PageBuffer {
 public:
  std::span<std::byte> of(int64_t bytes) {
    if (bytes > static_cast<int64_t>(bytes_)) {
      bytes_ = static_cast<size_t>(bytes);
      memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes_)));
      SLUICE_CHECK(memory_ != nullptr, "no memory for a piece of a checkpoint");
    }
    return {memory_.get(), static_cast<size_t>(bytes)};
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  size_t bytes_ = 0;
};

std::string place_of(const fs::path& file, const ManifestExtent& extent, const ManifestPiece& piece) {
  return file.string() + " is damaged: bytes " + std::to_string(piece.offset) + " to " +
         std::to_string(piece.offset + piece.bytes) + ", of '" + extent.name + "' (" + extent.group + ")";
}

std::optional<std::string> damage_of(const SwapReader& file, const ManifestExtent& extent, const ManifestPiece& piece,
                                     PageBuffer& buffer) {
  const std::span<std::byte> bytes = buffer.of(piece.bytes);
  if (const int error = file.read(piece.offset, bytes); error != 0)
    return place_of(file.path(), extent, piece) + ", cannot be read: " + std::strerror(error);
  if (XXH3_64bits(bytes.data(), bytes.size()) == piece.digest) return std::nullopt;
  return place_of(file.path(), extent, piece) + ", are not those that the checkpoint froze";
}

}  // namespace

std::vector<ManifestPart> parts_of(const StateLayout& layout, int64_t begin, int64_t end) {
  std::vector<ManifestPart> parts;
  const StateSpans spans = layout.spans(begin, end);
  for (size_t part = 0; part < spans.size(); ++part)
    if (spans[part].count > 0)
      parts.push_back({std::string(name_of(static_cast<StatePart>(part))), std::string(name_of(spans[part].dtype)),
                       spans[part].begin, spans[part].count, spans[part].offset});
  return parts;
}

std::string to_json(const Manifest& manifest, const fs::path& checkpoint) {
  ordered_json files = ordered_json::array(), extents = ordered_json::array();
  for (const fs::path& file : manifest.files) files.push_back(file_json(file, checkpoint));
  // A line each: millions of pieces stay readable.
  std::string text =
      "{\"format\": " + ordered_json(kFormat).dump() + ",\n \"files\": " + files.dump() + ",\n \"extents\": [";
  for (size_t i = 0; i < manifest.extents.size(); ++i)
    text += (i == 0 ? "\n  " : ",\n  ") + extent_json(manifest.extents[i]).dump();
  return text + "]}\n";
}

Manifest parse_manifest(std::string_view text, const fs::path& checkpoint) {
  const std::string origin = (checkpoint / kManifestFile).string();
  try {
    require(!nests_too_deep(text), "it nests too deep");
    const json parsed = json::parse(text);
    require(parsed.at("format") == kFormat, "its format is " + parsed.at("format").dump() + ", which is not known");
    Manifest manifest;
    for (const json& file : parsed.at("files")) manifest.files.push_back(file_from(file, checkpoint));
    for (const json& extent : parsed.at("extents"))
      manifest.extents.push_back(extent_from(extent, manifest.files.size()));
    return manifest;
  } catch (const json::exception& error) {
    throw SetupError(origin + " is damaged: " + error.what(), "");
  } catch (const SetupError& error) {
    throw SetupError(origin + " is damaged: " + error.error().message, "");
  }
}

Manifest read_manifest(const fs::path& checkpoint) {
  std::ifstream file(checkpoint / kManifestFile);
  if (!file) throw SetupError((checkpoint / kManifestFile).string() + " cannot be read: " + std::strerror(errno), "");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return parse_manifest(text, checkpoint);
}

std::vector<std::string> find_damage(const Manifest& manifest, size_t most, const Advance& verified) {
  std::vector<std::string> found;
  std::vector<std::unique_ptr<SwapReader>> files;
  for (const fs::path& path : manifest.files) {
    files.push_back(std::make_unique<SwapReader>(path));
    if (const int error = files.back()->open_error(); error != 0)
      found.push_back("the swap file " + path.string() + " cannot be opened: " + std::strerror(error));
  }
  if (!found.empty()) return found;

  struct Task {
    const ManifestExtent* extent;
    const ManifestPiece* piece;
  };
  std::vector<Task> tasks;
  for (const ManifestExtent& extent : manifest.extents)
    for (const ManifestPiece& piece : extent.pieces) tasks.push_back({&extent, &piece});
  // Tasks are taken in order and every one taken is finished: what is found first is so whatever the timing.
  std::vector<std::optional<std::string>> damage(tasks.size());
  std::atomic<size_t> next = 0, count = 0;
  const auto work = [&] {
    PageBuffer buffer;
    while (count < most) {
      const size_t i = next++;
      if (i >= tasks.size()) return;
      const auto& [extent, piece] = tasks[i];
      damage[i] = damage_of(*files[static_cast<size_t>(piece->file)], *extent, *piece, buffer);
      if (damage[i]) ++count;
      if (verified) verified(piece->bytes);
    }
  };
  {
    std::vector<std::jthread> readers;
    for (size_t i = 1; i < std::min(kReadersMax, tasks.size()); ++i) readers.emplace_back(work);
    work();
  }
  for (std::optional<std::string>& each : damage)
    if (each && found.size() < most) found.push_back(std::move(*each));
  return found;
}

int64_t bytes_of(const Manifest& manifest) {
  int64_t sum = 0;
  for (const ManifestExtent& extent : manifest.extents)
    for (const ManifestPiece& piece : extent.pieces) sum += piece.bytes;
  return sum;
}

}  // namespace sluice::train
