#include "runtime/train/special_tokens.h"

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "runtime/train/config_values.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// {"eos_token": "</s>", ...} of a tokenizer's files. Files that are no JSON have none: the text side refuses them.
std::map<std::string, std::string> special_tokens_of(const fs::path& base_model) {
  std::map<std::string, std::string> tokens;
  for (const char* file : {"special_tokens_map.json", "tokenizer_config.json"}) {
    std::ifstream stream(base_model / file);
    const nlohmann::json fields = nlohmann::json::parse(stream, nullptr, false);
    if (!fields.is_object()) continue;
    for (const auto& [name, value] : fields.items()) {
      const bool described = value.is_object() && value.contains("content");
      const nlohmann::json& text = described ? value.at("content") : value;
      if (name.ends_with("_token") && text.is_string()) tokens[name] = text.get<std::string>();
    }
  }
  return tokens;
}

}  // namespace

void check_special_tokens(const Setting& given, const fs::path& base_model, std::vector<std::string>& notes) {
  if (given.value.kind != DocumentValue::Kind::block)
    refuse_value(given, "a block of names and tokens", "{eos_token: </s>}");
  const std::map<std::string, std::string> tokenizers = special_tokens_of(base_model);
  Problems problems;
  for (const DocumentField& part : given.value.fields) {
    if (is_unset(part.value)) continue;
    const std::string name = "special_tokens." + part.key;
    const auto own = tokenizers.find(part.key);
    if (own != tokenizers.end() && part.value.is_text() && own->second == part.value.text) continue;
    if (part.key == "pad_token") {
      notes.push_back(given.place_of(part.value.position) + ": " + name +
                      " changes nothing here: rows are laid end to end, without padding");
      continue;
    }
    problems.add(part.position.line,
                 given.place_of(part.value.position) + ": " + name + " is " + shown(part.value) + ", the tokenizer" +
                     (own == tokenizers.end() ? " has none" : "'s is '" + own->second + "'"),
                 "remove it, or set " + part.key + " in tokenizer_config.json of base_model");
  }
  problems.throw_if_any();
}

}  // namespace sluice::train
