#include "runtime/train/config_document.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <sstream>

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

[[noreturn]] void not_yaml(const std::string& origin, const YAML::Mark& mark, const std::string& what) {
  throw SetupError(place(origin, position_of(mark)) + ": not YAML: " + what,
                   "check indentation, colons and quotes at this place");
}

// Where each document of a text begins.
class DocumentStarts : public YAML::EventHandler {
 public:
  std::vector<YAML::Mark> marks;

  void OnDocumentStart(const YAML::Mark& mark) override { marks.push_back(mark); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

// yaml-cpp's LoadAll takes a comma that belongs to nothing for a document that ends where it begins, for ever: what
// is loaded is one document, and this sees that it is the only one.
void refuse_more_documents(const std::string& text, const std::string& origin) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentStarts documents;
  while (parser.HandleNextDocument(documents)) {
    const std::vector<YAML::Mark>& marks = documents.marks;
    if (marks.size() < 2) continue;
    const YAML::Mark &last = marks.back(), &before = marks[marks.size() - 2];
    if (last.pos == before.pos) not_yaml(origin, last, "this belongs to nothing");
    if (marks.size() > 2) break;
  }
  if (documents.marks.size() > 1) throw SetupError(origin + ": holds more than one YAML document", "keep one");
}

class Converter {
 public:
  explicit Converter(const std::string& origin) : origin_(origin) {}

  DocumentValue convert(const YAML::Node& node, int level = 1) {
    // An anchor may stand inside itself, and nest without end.
    if (level > kLevelsMax) throw SetupError(origin_ + ": nests too deep for a job", "write fewer levels");
    DocumentValue value;
    value.position = position_of(node.Mark());
    // Anchors that repeat anchors could make a short file grow without end.
    if (++values_ > kValuesMax) throw SetupError(origin_ + ": holds too many values for a job", "write fewer");
    if (node.IsScalar()) {
      value.kind = DocumentValue::Kind::text;
      value.text = node.Scalar();
      count_text(value.text);
    } else if (node.IsSequence()) {
      value.kind = DocumentValue::Kind::list;
      for (const YAML::Node& item : node) value.items.push_back(convert(item, level + 1));
    } else if (node.IsMap()) {
      value.kind = DocumentValue::Kind::block;
      for (const auto& entry : node) value.fields.push_back(convert_field(entry.first, entry.second, level + 1));
    }
    return value;
  }

 private:
  static constexpr int kValuesMax = 100000;
  static constexpr int kLevelsMax = 32;
  static constexpr size_t kTextBytesMax = size_t{64} << 20;

  // An anchor on a long text repeats all of it.
  void count_text(const std::string& text) {
    text_bytes_ += text.size();
    if (text_bytes_ > kTextBytesMax) throw SetupError(origin_ + ": holds too much text for a job", "write less");
  }

  DocumentField convert_field(const YAML::Node& key, const YAML::Node& value, int level) {
    if (!key.IsScalar())
      throw SetupError(place(origin_, position_of(key.Mark())) + ": a key must be a word",
                       "write lines of the form `key: value`");
    count_text(key.Scalar());
    return {key.Scalar(), position_of(key.Mark()), convert(value, level)};
  }

  const std::string& origin_;
  int values_ = 0;
  size_t text_bytes_ = 0;
};

}  // namespace

DocumentValue parse_document(const std::string& text, const std::string& origin) {
  // yaml-cpp takes a line end at the end of the text for the end of a quote that was never closed.
  const std::string kept = text.substr(0, text.find_last_not_of(" \r\n") + 1);
  try {
    refuse_more_documents(kept, origin);
    return Converter(origin).convert(YAML::Load(kept));
  } catch (const YAML::Exception& error) {
    not_yaml(origin, error.mark, error.msg);
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
