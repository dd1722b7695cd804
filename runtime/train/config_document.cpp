#include "runtime/train/config_document.h"

#include <yaml-cpp/yaml.h>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

Position position_of(const YAML::Mark& mark) {
  return mark.is_null() ? Position{} : Position{mark.line + 1, mark.column + 1};
}

std::string place(const std::string& origin, Position position) {
  if (position.line == 0) return origin;
  return origin + ":" + std::to_string(position.line) + ":" + std::to_string(position.column);
}

class Converter {
 public:
  explicit Converter(const std::string& origin) : origin_(origin) {}

  DocumentValue convert(const YAML::Node& node) {
    DocumentValue value;
    value.position = position_of(node.Mark());
    // Anchors that repeat anchors could make a short file grow without end.
    if (++values_ > kValuesMax) throw SetupError(origin_ + ": holds too many values for a job", "write fewer");
    if (node.IsScalar()) {
      value.kind = DocumentValue::Kind::text;
      value.text = node.Scalar();
    } else if (node.IsSequence()) {
      value.kind = DocumentValue::Kind::list;
      for (const YAML::Node& item : node) value.items.push_back(convert(item));
    } else if (node.IsMap()) {
      value.kind = DocumentValue::Kind::block;
      for (const auto& entry : node) value.fields.push_back(convert_field(entry.first, entry.second));
    }
    return value;
  }

 private:
  static constexpr int kValuesMax = 100000;

  DocumentField convert_field(const YAML::Node& key, const YAML::Node& value) {
    if (!key.IsScalar())
      throw SetupError(place(origin_, position_of(key.Mark())) + ": a key must be a word",
                       "write lines of the form `key: value`");
    return {key.Scalar(), position_of(key.Mark()), convert(value)};
  }

  const std::string& origin_;
  int values_ = 0;
};

}  // namespace

DocumentValue parse_document(const std::string& text, const std::string& origin) {
  // yaml-cpp takes a line end at the end of the text for the end of a quote that was never closed.
  const std::string kept = text.substr(0, text.find_last_not_of(" \r\n") + 1);
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(kept);
    if (documents.size() > 1) throw SetupError(origin + ": holds more than one YAML document", "keep one");
    return documents.empty() ? DocumentValue() : Converter(origin).convert(documents.front());
  } catch (const YAML::Exception& error) {
    throw SetupError(place(origin, position_of(error.mark)) + ": not YAML: " + error.msg,
                     "check indentation, colons and quotes at this place");
  }
}

std::optional<bool> as_bool(std::string_view text) {
  for (const std::string_view word : {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
    if (text == word) return true;
  for (const std::string_view word : {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
    if (text == word) return false;
  return std::nullopt;
}

bool is_unset(const DocumentValue& value) {
  switch (value.kind) {
    case DocumentValue::Kind::null:
      return true;
    case DocumentValue::Kind::text:
      return value.text.empty() || value.text == "0" || value.text == "0.0" || as_bool(value.text) == false;
    case DocumentValue::Kind::list:
      return value.items.empty();
    case DocumentValue::Kind::block:
      return value.fields.empty();
  }
  return false;
}

std::string shown(const DocumentValue& value) {
  constexpr size_t kShownMax = 60;
  switch (value.kind) {
    case DocumentValue::Kind::null:
      return "nothing";
    case DocumentValue::Kind::list:
      return "a list";
    case DocumentValue::Kind::block:
      return "a block of keys";
    case DocumentValue::Kind::text:
      return "'" + (value.text.size() > kShownMax ? value.text.substr(0, kShownMax) + "..." : value.text) + "'";
  }
  return "";
}

}  // namespace sluice::train
