// JSON files written by others: parsed strictly (a key twice is an error), read field by field with messages that
// name the file, the field, its value and the fix. Included by .cpp files of models/ only (nlohmann/json is heavy).
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::models {

using Json = nlohmann::ordered_json;  // keeps the order of keys: a copied config.json stays readable beside its source

// Throws SetupError: absent, not a regular file, larger than any such file should be, unreadable.
std::string read_small_file(const std::filesystem::path& file);

// Throws SetupError: not JSON (with line and column), a key twice, not an object. `what` names the text in messages,
// usually the file's path.
Json parse_json_object(std::string_view text, const std::string& what);
inline Json read_json_object(const std::filesystem::path& file) {
  return parse_json_object(read_small_file(file), file.string());
}

// For objects with very many keys (headers of safetensors): an ordered object takes quadratic time to build.
using SortedJson = nlohmann::json;
SortedJson parse_sorted_json_object(std::string_view text, const std::string& what);

// At most some 80 characters of a value, for messages.
std::string shown(const Json& value);

// The fields of one object. Every key that is asked for counts as known; refuse_unknown() then names the others.
class JsonFields {
 public:
  // `prefix`: where the object lies in its file, "" or "rope_scaling.".
  JsonFields(std::filesystem::path file, std::string prefix, const Json& object)
      : file_(std::move(file)), prefix_(std::move(prefix)), object_(object) {}

  const Json* find(std::string_view key);     // null when absent
  const Json* present(std::string_view key);  // null when absent or JSON null

  // Absent and null both give the default; no default: both are errors.
  int64_t integer(std::string_view key, std::optional<int64_t> absent = {}, int64_t min = 1,
                  int64_t max = std::numeric_limits<int32_t>::max());
  double number(std::string_view key, std::optional<double> absent = {});
  double positive(std::string_view key, std::optional<double> absent = {});
  bool boolean(std::string_view key, std::optional<bool> absent = {});
  std::string text(std::string_view key, std::optional<std::string> absent = {});
  std::vector<std::string> texts(std::string_view key);

  // Fields without influence on what is computed here.
  void ignore(std::string_view key) { known_.emplace(key); }
  // Absent, null or one of `harmless`; anything else is refused with `why`.
  void require(std::string_view key, const std::vector<Json>& harmless, const std::string& why);
  // Absent, null, [], {}, "" or false; anything else is refused with `why`.
  void require_unset(std::string_view key, const std::string& why);
  void refuse_unknown(const std::string& fix) const;

  [[noreturn]] void fail(std::string_view key, const std::string& why, const std::string& fix) const;
  const std::filesystem::path& file() const { return file_; }

 private:
  [[noreturn]] void wrong_type(std::string_view key, const std::string& wanted) const;
  [[noreturn]] void missing(std::string_view key) const;

  std::filesystem::path file_;
  std::string prefix_;
  const Json& object_;
  std::set<std::string, std::less<>> known_;
};

}  // namespace sluice::models
