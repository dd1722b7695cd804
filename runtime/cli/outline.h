// The command line as data, read off CLI11's own definitions: what completions and the man page are made of.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace sluice::cli {

// What a shell offers for a value.
enum class ValueKind { none, text, choice, file, folder, setting };

struct OptionOutline {
  std::vector<std::string> names;  // "--trace", "-h"; none: by its place
  std::string value;               // "FILE.json"; empty: a flag
  ValueKind kind = ValueKind::none;
  std::vector<std::string> choices;  // of a value that is one of these
  std::string about;
  std::string preset;  // empty: none
  bool required = false, repeats = false;
};

struct CommandOutline {
  std::string name, about, footer;
  std::vector<OptionOutline> options, places;  // by name; by place
};

struct Outline {
  std::string about, version;
  std::vector<OptionOutline> options;
  std::vector<CommandOutline> commands;
};

Outline outline_of(const CLI::App& app);

std::string bash_completion(const Outline& outline);
std::string zsh_completion(const Outline& outline);
std::string fish_completion(const Outline& outline);
// For man(1), in man(7)'s macros.
std::string man_page(const Outline& outline);

}  // namespace sluice::cli
