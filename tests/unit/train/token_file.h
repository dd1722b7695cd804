// Writes token files as runtime/text/TOKEN_FILE.md lays them down, right ones and damaged ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace sluice::train {

struct TestDocument {
  std::vector<int32_t> ids;
  std::vector<int32_t> labels;
};
using TestRow = std::vector<TestDocument>;

template <class Value>
void append(std::string& bytes, Value value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline std::string token_file_bytes(const std::vector<TestRow>& rows, uint64_t vocabulary = 1000) {
  std::vector<uint64_t> row_starts = {0}, document_starts = {0};
  std::string ids, labels;
  uint64_t supervised = 0, longest = 0;
  for (const TestRow& row : rows) {
    for (const TestDocument& document : row) {
      for (const int32_t id : document.ids) append(ids, id);
      for (const int32_t label : document.labels) {
        append(labels, label);
        supervised += label != -100;
      }
      document_starts.push_back(document_starts.back() + document.ids.size());
    }
    longest = std::max(longest, document_starts.back() - row_starts.back());
    row_starts.push_back(document_starts.back());
  }
  std::string bytes = "SLUICETK";
  append(bytes, uint32_t{1});
  append(bytes, uint32_t{0});
  for (const uint64_t count : {static_cast<uint64_t>(rows.size()), row_starts.back(),
                               static_cast<uint64_t>(document_starts.size() - 1), vocabulary, supervised, longest})
    append(bytes, count);
  bytes += std::string(64, 'a');
  for (const uint64_t start : row_starts) append(bytes, start);
  for (const uint64_t start : document_starts) append(bytes, start);
  return bytes + ids + labels + "KTECIULS";
}

inline void write_bytes(const std::filesystem::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary) << bytes;
}

// Overwrites in place.
template <class Value>
std::string patched(std::string bytes, size_t offset, Value value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  return bytes;
}

// A document of `length` tokens from `first` on, of which the first `masked` are not trained on.
inline TestDocument counting_document(int32_t first, int32_t length, int32_t masked) {
  TestDocument document;
  for (int32_t i = 0; i < length; ++i) {
    document.ids.push_back(first + i);
    document.labels.push_back(i < masked ? -100 : first + i);
  }
  return document;
}

}  // namespace sluice::train
