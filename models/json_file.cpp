#include "models/json_file.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>

#include "models/nearest_name.h"
#include "runtime/core/json_nesting.h"
#include "runtime/core/result.h"

namespace sluice::models {

namespace {

// Configs are a few KiB; the index of a model with 100,000 tensors is 12 MiB.
constexpr std::uintmax_t kFileBytesMax = 100'000'000;

// nlohmann/json keeps the last of two equal keys. Two readers that disagree on which one counts is how a
// checked file turns into another one, so both are refused. A pass of its own: the parser's callback would do it in
// one, but takes quadratic time on an object of many objects (200 s for 100,000 tensors).
class DuplicateKeyFinder : public nlohmann::json_sax<SortedJson> {
 public:
  std::optional<std::string> duplicate;

  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return true;
  }
  bool end_object() override {
    keys_.pop_back();
    return true;
  }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    duplicate = name;
    return false;
  }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  // Broken JSON is reported by the parser proper.
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  std::vector<std::set<std::string>> keys_;
};

// "[json.exception.parse_error.101] parse error at line 3, column 5: ..." without its tag.
std::string reason_of(const std::exception& error) {
  const std::string text = error.what();
  const size_t tag_end = text.find("] ");
  return tag_end == std::string::npos ? text : text.substr(tag_end + 2);
}

template <class AnyJson>
AnyJson parse_strictly(std::string_view text, const std::string& what) {
  if (nests_too_deep(text)) {
    throw SetupError(what + ": nests more than " + std::to_string(kJsonLevelsMax) + " levels deep",
                     "restore the file from its source");
  }
  DuplicateKeyFinder finder;
  SortedJson::sax_parse(text.begin(), text.end(), &finder);
  if (finder.duplicate) {
    throw SetupError(what + ": the key " + shown(*finder.duplicate) + " stands twice in one object",
                     "keep one of the two");
  }
  AnyJson parsed;
  try {
    parsed = AnyJson::parse(text.begin(), text.end());
  } catch (const nlohmann::detail::exception& error) {
    throw SetupError(what + ": not valid JSON: " + reason_of(error), "restore the file from its source");
  }
  if (!parsed.is_object()) {
    throw SetupError(what + ": is a JSON " + parsed.type_name() + ", expected an object",
                     "restore the file from its source");
  }
  return parsed;
}

}  // namespace

std::string read_small_file(const std::filesystem::path& file) {
  std::error_code code;
  const auto status = std::filesystem::status(file, code);
  if (!std::filesystem::exists(status)) {
    throw SetupError(
        Error{ErrorCode::not_found, file.string() + ": no such file", "check the path of the model directory"});
  }
  if (!std::filesystem::is_regular_file(status)) {
    throw SetupError(file.string() + ": not a regular file", "replace it by the model's own file of that name");
  }
  const std::uintmax_t bytes = std::filesystem::file_size(file, code);
  if (code || bytes > kFileBytesMax) {
    throw SetupError(file.string() + ": " + (code ? code.message() : std::to_string(bytes) + " bytes long") +
                         ", expected a JSON file of at most " + std::to_string(kFileBytesMax) + " bytes",
                     "replace it by the model's own file of that name");
  }
  std::ifstream stream(file, std::ios::binary);
  std::string text(bytes, '\0');
  if (!stream.read(text.data(), static_cast<std::streamsize>(bytes))) {
    throw SetupError(Error{ErrorCode::io, file.string() + ": cannot be read: " + std::strerror(errno),
                           "check the file's permissions"});
  }
  return text;
}

Json parse_json_object(std::string_view text, const std::string& what) { return parse_strictly<Json>(text, what); }

SortedJson parse_sorted_json_object(std::string_view text, const std::string& what) {
  return parse_strictly<SortedJson>(text, what);
}

std::string shown(const Json& value) {
  constexpr size_t kLengthMax = 80;
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() <= kLengthMax ? text : text.substr(0, kLengthMax) + "...";
}

const Json* JsonFields::find(std::string_view key) {
  known_.emplace(key);
  const auto found = object_.find(std::string(key));
  return found == object_.end() ? nullptr : &*found;
}

const Json* JsonFields::present(std::string_view key) {
  const Json* value = find(key);
  return value != nullptr && !value->is_null() ? value : nullptr;
}

int64_t JsonFields::integer(std::string_view key, std::optional<int64_t> absent, int64_t min, int64_t max) {
  const Json* value = present(key);
  if (value == nullptr) return absent ? *absent : (missing(key), 0);
  if (!value->is_number_integer()) wrong_type(key, "an integer");
  const bool too_large = value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(max);
  if (too_large || value->get<int64_t>() < min || value->get<int64_t>() > max) {
    fail(key, "must lie between " + std::to_string(min) + " and " + std::to_string(max), "correct the value");
  }
  return value->get<int64_t>();
}

double JsonFields::number(std::string_view key, std::optional<double> absent) {
  const Json* value = present(key);
  if (value == nullptr) return absent ? *absent : (missing(key), 0);
  if (!value->is_number()) wrong_type(key, "a number");
  return value->get<double>();
}

double JsonFields::positive(std::string_view key, std::optional<double> absent) {
  const double value = number(key, absent);
  if (!(value > 0) || !std::isfinite(value)) fail(key, "must be above zero", "correct the value");
  return value;
}

bool JsonFields::boolean(std::string_view key, std::optional<bool> absent) {
  const Json* value = present(key);
  if (value == nullptr) return absent ? *absent : (missing(key), false);
  if (!value->is_boolean()) wrong_type(key, "true or false");
  return value->get<bool>();
}

std::string JsonFields::text(std::string_view key, std::optional<std::string> absent) {
  const Json* value = present(key);
  if (value == nullptr) return absent ? *absent : (missing(key), "");
  if (!value->is_string()) wrong_type(key, "a string");
  return value->get<std::string>();
}

std::vector<std::string> JsonFields::texts(std::string_view key) {
  const Json* value = present(key);
  if (value == nullptr) missing(key);
  if (!value->is_array()) wrong_type(key, "a list of strings");
  std::vector<std::string> all;
  for (const Json& one : *value) {
    if (!one.is_string()) wrong_type(key, "a list of strings");
    all.push_back(one.get<std::string>());
  }
  return all;
}

void JsonFields::require(std::string_view key, const std::vector<Json>& harmless, const std::string& why) {
  const Json* value = present(key);
  if (value == nullptr) return;
  for (const Json& one : harmless) {
    if (*value == one) return;
  }
  fail(
      key, why, "supported here: absent, null" + [&] {
        std::string list;
        for (const Json& one : harmless) list += " or " + shown(one);
        return list;
      }());
}

void JsonFields::require_unset(std::string_view key, const std::string& why) {
  const Json* value = present(key);
  if (value == nullptr || (value->is_boolean() && !value->get<bool>())) return;
  if ((value->is_array() || value->is_object()) && value->empty()) return;
  if (value->is_string() && value->get_ref<const std::string&>().empty()) return;
  fail(key, why, "supported here: absent, null, false or empty");
}

void JsonFields::refuse_unknown(const std::string& fix) const {
  for (const auto& [key, value] : object_.items()) {
    if (known_.contains(key)) continue;
    fail(key,
         "is not known here, and a field that may change what is computed is never ignored (nearest known field: '" +
             prefix_ + nearest_name(key, known_) + "')",
         fix);
  }
}

void JsonFields::fail(std::string_view key, const std::string& why, const std::string& fix) const {
  const auto found = object_.find(std::string(key));
  const std::string value = found == object_.end() ? "absent" : shown(*found);
  throw SetupError(Error{ErrorCode::unsupported,
                         file_.string() + ": field '" + prefix_ + std::string(key) + "' is " + value + ": " + why,
                         fix});
}

void JsonFields::wrong_type(std::string_view key, const std::string& wanted) const {
  fail(key, "must be " + wanted, "correct the value");
}

void JsonFields::missing(std::string_view key) const {
  fail(key, "this field is needed", "restore config files from the model's source");
}

}  // namespace sluice::models
