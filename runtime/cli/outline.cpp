#include "runtime/cli/outline.h"

#include <CLI/CLI.hpp>

namespace sluice::cli {
namespace {

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t end; (end = text.find(at, begin)) != std::string::npos; begin = end + 1)
    parts.push_back(text.substr(begin, end - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

// By how help names the value: "a|b" is one of these.
ValueKind kind_of(const std::string& value) {
  if (value.empty()) return ValueKind::none;
  if (value.find('|') != std::string::npos) return ValueKind::choice;
  if (value == "DIR") return ValueKind::folder;
  if (value == "KEY=VALUE") return ValueKind::setting;
  const bool is_file = value.find("FILE") != std::string::npos || value.find(".yaml") != std::string::npos;
  return is_file ? ValueKind::file : ValueKind::text;
}

OptionOutline outline_of(const CLI::Option& option) {
  OptionOutline outline;
  for (const std::string& name : option.get_snames()) outline.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) outline.names.push_back("--" + name);
  if (option.get_type_size_max() > 0) outline.value = option.get_type_name();
  outline.kind = kind_of(outline.value);
  if (outline.kind == ValueKind::choice) outline.choices = split(outline.value, '|');
  outline.about = option.get_description();
  outline.preset = option.get_default_str();
  outline.required = option.get_required();
  outline.repeats = option.get_expected_max() > 1;
  return outline;
}

// Those of option groups too, in the order in which they were defined.
void collect(const CLI::App& app, std::vector<OptionOutline>& options, std::vector<OptionOutline>& places) {
  for (const CLI::Option* option : app.get_options())
    (option->nonpositional() ? options : places).push_back(outline_of(*option));
  for (const CLI::App* group : app.get_subcommands(nullptr))
    if (group->get_name().empty()) collect(*group, options, places);
}

}  // namespace

Outline outline_of(const CLI::App& app) {
  Outline outline;
  outline.about = app.get_description();
  outline.version = app.version();
  std::vector<OptionOutline> none;
  collect(app, outline.options, none);
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    CommandOutline one{command->get_name(), command->get_description(), command->get_footer(), {}, {}};
    collect(*command, one.options, one.places);
    outline.commands.push_back(std::move(one));
  }
  return outline;
}

}  // namespace sluice::cli
