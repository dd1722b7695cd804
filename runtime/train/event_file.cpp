#include "runtime/train/event_file.h"

#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <ctime>

#include "runtime/train/durable_folders.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "both formats are little-endian");

constexpr std::string_view kPrefix = "events.out.tfevents.";

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
    table[byte] = crc;
  }
  return table;
}

template <class Number>
std::string bytes_of(Number number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}

// Of data that may hold checksums itself (tensorflow/core/lib/hash/crc32c.h).
uint32_t masked(uint32_t crc) { return std::rotr(crc, 15) + 0xa282ead8u; }

std::string record(const std::string& data) {
  const std::string length = bytes_of(static_cast<uint64_t>(data.size()));
  return length + bytes_of(masked(crc32c(length))) + data + bytes_of(masked(crc32c(data)));
}

// Protocol Buffers' wire format: a field is its number and type, then its value.
enum class Wire : uint8_t { varint = 0, eight_bytes = 1, counted = 2, four_bytes = 5 };

std::string varint(uint64_t value) {
  std::string text;
  for (; value >= 0x80; value >>= 7) text += static_cast<char>(value | 0x80);
  return text + static_cast<char>(value);
}
std::string tag(uint64_t number, Wire type) { return varint(number << 3 | static_cast<uint64_t>(type)); }
std::string counted(uint64_t number, std::string_view bytes) {
  return tag(number, Wire::counted) + varint(bytes.size()) + std::string(bytes);
}

// Fields of tensorflow/core/util/event.proto and framework/summary.proto.
namespace field {
constexpr uint64_t kEventTime = 1, kEventStep = 2, kEventVersion = 3, kEventSummary = 5, kEventSession = 7;
constexpr uint64_t kSummaryValue = 1, kValueTag = 1, kValueNumber = 2, kSessionStatus = 1;
}  // namespace field

// The wall's time: what TensorBoard shows beside a value.
double now() {
  timespec time{};
  clock_gettime(CLOCK_REALTIME, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// TensorBoard reads the files of a folder in the order of their names, which hold a time of ten digits: after the last,
// whatever the clock says.
fs::path next_file(const fs::path& folder) {
  make_folders(folder);
  auto number = static_cast<long long>(now());
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(kPrefix)) number = std::max(number, std::atoll(name.c_str() + kPrefix.size()) + 1);
  }
  char digits[32];
  std::snprintf(digits, sizeof digits, "%010lld", number);
  return folder / (std::string(kPrefix) + digits + ".sluice");
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> table = crc_table();
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

EventFile::EventFile(const fs::path& folder, int64_t first_step, const SpacePatience& patience)
    : file_(next_file(folder), patience) {
  constexpr uint64_t kStart = 1;
  write_event(0, counted(field::kEventVersion, "brain.Event:2"));
  write_event(first_step, counted(field::kEventSession, tag(field::kSessionStatus, Wire::varint) + varint(kStart)));
}

void EventFile::write(int64_t step, const Scalars& scalars) {
  std::string summary;
  for (const auto& [name, value] : scalars)
    summary +=
        counted(field::kSummaryValue, counted(field::kValueTag, name) + tag(field::kValueNumber, Wire::four_bytes) +
                                          bytes_of(static_cast<float>(value)));
  write_event(step, counted(field::kEventSummary, summary));
}

void EventFile::write_event(int64_t step, const std::string& content) {
  file_.append(record(tag(field::kEventTime, Wire::eight_bytes) + bytes_of(now()) +
                      tag(field::kEventStep, Wire::varint) + varint(static_cast<uint64_t>(step)) + content));
}

}  // namespace sluice::train
