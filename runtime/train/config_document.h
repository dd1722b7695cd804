// A YAML document as a plain tree of values that know where they stand: what config_*.cpp work on.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::train {

struct Position {
  int line = 0;  // from 1; 0: none
  int column = 0;
};

struct DocumentField;

struct DocumentValue {
  enum class Kind { null, text, list, block } kind = Kind::null;
  Position position;
  std::string text;                   // numbers and truth values too: YAML gives everything as text
  std::vector<DocumentValue> items;   // of a list
  std::vector<DocumentField> fields;  // of a block, in order; a key may come twice

  bool is_text() const { return kind == Kind::text; }
  bool is_null() const { return kind == Kind::null; }
};

struct DocumentField {
  std::string key;
  Position position;
  DocumentValue value;
};

// `origin` names the text in messages: a file, or "command line". Throws SetupError.
DocumentValue parse_document(const std::string& text, const std::string& origin);

// YAML 1.1's words, as Python's reader takes them: true, yes, on; false, no, off.
std::optional<bool> as_bool(std::string_view text);

// null, false, 0, "", [], {}: a template's ways of leaving something out.
bool is_unset(const DocumentValue& value);

// At most some 60 characters of a value, quoted, for messages.
std::string shown(const DocumentValue& value);

}  // namespace sluice::train
