// Scripts that a shell reads once. They call nothing of ours: what there is to complete is written into them.
#include <algorithm>

#include "runtime/cli/outline.h"
#include "runtime/train/config_keys.h"

namespace sluice::cli {
namespace {

std::string joined(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

std::vector<std::string> names_of(const std::vector<OptionOutline>& options) {
  std::vector<std::string> names;
  for (const OptionOutline& option : options) names.insert(names.end(), option.names.begin(), option.names.end());
  return names;
}

std::vector<std::string> names_of(const std::vector<CommandOutline>& commands) {
  std::vector<std::string> names;
  for (const CommandOutline& command : commands) names.push_back(command.name);
  return names;
}

// "max_steps=", of all keys of a job that have a value of their own.
std::vector<std::string> settings() {
  std::vector<std::string> all;
  for (const train::Key& key : train::keys())
    if (key.name != "datasets") all.push_back(std::string(key.name) + "=");
  return all;
}

bool takes_settings(const CommandOutline& command) {
  return std::any_of(command.places.begin(), command.places.end(),
                     [](const OptionOutline& place) { return place.kind == ValueKind::setting; });
}

std::string single_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

// --- bash -------------------------------------------------------------------------------------------------------

std::string bash_value(const OptionOutline& option) {
  switch (option.kind) {
    case ValueKind::choice:
      return "_sluice_words '" + joined(option.choices, " ") + "'";
    case ValueKind::file:
      return "_sluice_files -f";
    case ValueKind::folder:
      return "_sluice_files -d";
    default:
      return ":";
  }
}

std::string bash_place(const CommandOutline& command) {
  if (takes_settings(command)) return "_sluice_job";
  return command.places.empty() ? ":" : bash_value(command.places.front());
}

constexpr const char* kBashHelpers = R"(_sluice_words() { COMPREPLY=($(compgen -W "$1" -- "$cur")); }
_sluice_files() {
  local IFS=$'\n'
  compopt -o filenames 2>/dev/null
  COMPREPLY=($(compgen "$1" -- "$cur"))
}
# The job's file first, then settings that go over it.
_sluice_job() {
  local word
  for word in "${COMP_WORDS[@]:2:COMP_CWORD-2}"; do
    case $word in
      *.yaml | *.yml)
        compopt -o nospace 2>/dev/null
        _sluice_words "$_sluice_settings"
        return
        ;;
    esac
  done
  _sluice_files -f
}
)";

// --- zsh --------------------------------------------------------------------------------------------------------

// Inside '...', where _arguments gives brackets and colons a meaning.
std::string zsh_text(const std::string& text) {
  std::string quoted;
  for (const char c : text) {
    if (c == '\'')
      quoted += "'\\''";
    else if (std::string_view("[]:\\").find(c) != std::string_view::npos)
      quoted += std::string("\\") + c;
    else
      quoted += c;
  }
  return quoted;
}

std::string zsh_action(const OptionOutline& option) {
  switch (option.kind) {
    case ValueKind::choice:
      return "(" + joined(option.choices, " ") + ")";
    case ValueKind::file:
      return "_files";
    case ValueKind::folder:
      return "_files -/";
    case ValueKind::setting:
      return "_sluice_settings";
    default:
      return " ";
  }
}

std::string zsh_option(const OptionOutline& option) {
  std::string lines;
  for (const std::string& name : option.names) {
    lines += "        '" + std::string(option.repeats ? "*" : "") + name + "[" + zsh_text(option.about) + "]";
    if (option.kind != ValueKind::none) lines += ":" + zsh_text(option.value) + ":" + zsh_action(option);
    lines += "' \\\n";
  }
  return lines;
}

std::string zsh_place(const OptionOutline& place) {
  return std::string("        '") +
         (place.repeats    ? "*"
          : place.required ? ""
                           : ":") +
         ":" + zsh_text(place.value) + ":" + zsh_action(place) + "' \\\n";
}

// --- fish -------------------------------------------------------------------------------------------------------

std::string fish_value(const OptionOutline& option) {
  switch (option.kind) {
    case ValueKind::choice:
      return " -x -a " + single_quoted(joined(option.choices, " "));
    case ValueKind::file:
      return " -r -F";
    case ValueKind::folder:
      return " -x -a '(__fish_complete_directories)'";
    case ValueKind::none:
      return "";
    default:
      return " -x";
  }
}

std::string fish_option(const std::string& condition, const OptionOutline& option) {
  std::string line = "complete -c sluice -n " + single_quoted(condition);
  for (const std::string& name : option.names)
    line += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  return line + fish_value(option) + " -d " + single_quoted(option.about) + "\n";
}

}  // namespace

std::string bash_completion(const Outline& outline) {
  std::string values, words;
  for (const CommandOutline& command : outline.commands) {
    for (const OptionOutline& option : command.options) {
      if (option.kind == ValueKind::none) continue;
      std::vector<std::string> patterns;
      for (const std::string& name : option.names) patterns.push_back(command.name + "/" + name);
      values += "    " + joined(patterns, " | ") + ") " + bash_value(option) + "; return ;;\n";
    }
    const bool chooses = !command.places.empty() && command.places.front().kind == ValueKind::choice;
    words += "    " + command.name + ") options='" + joined(names_of(command.options), " ") + "'; " +
             (chooses ? "choices='" + joined(command.places.front().choices, " ") : "place='" + bash_place(command)) +
             "' ;;\n";
  }
  return "# bash completion for " + outline.version + ", made by `sluice completion bash`\n_sluice_settings='" +
         joined(settings(), " ") + "'\n" + kBashHelpers +
         "_sluice() {\n"
         "  local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= options= place=: choices= "
         "i\n"
         "  COMPREPLY=()\n"
         "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
         "    case ${COMP_WORDS[i]} in\n"
         "      " +
         joined(names_of(outline.commands), " | ") +
         ") command=${COMP_WORDS[i]}; break ;;\n"
         "    esac\n"
         "  done\n"
         "  case $command/$before in\n" +
         values +
         "  esac\n"
         "  case $command in\n"
         "    '') options='" +
         joined(names_of(outline.options), " ") + "'; choices='" + joined(names_of(outline.commands), " ") + "' ;;\n" +
         words +
         "  esac\n"
         "  if [[ $cur == -* ]]; then _sluice_words \"$options\"\n"
         "  elif [[ -n $choices ]]; then _sluice_words \"$choices\"\n"
         "  else $place\n"
         "  fi\n"
         "}\n"
         "complete -F _sluice sluice\n";
}

std::string zsh_completion(const Outline& outline) {
  std::string commands, cases;
  for (const CommandOutline& command : outline.commands) {
    commands += "    '" + command.name + ":" + zsh_text(command.about) + "'\n";
    cases += "    " + command.name + ")\n      _arguments -s \\\n";
    for (const OptionOutline& option : command.options) cases += zsh_option(option);
    for (const OptionOutline& place : command.places) cases += zsh_place(place);
    cases += "        && return 0\n      ;;\n";
  }
  std::string options;
  for (const OptionOutline& option : outline.options) options += zsh_option(option);
  return "#compdef sluice\n# zsh completion for " + outline.version + ", made by `sluice completion zsh`\n" +
         "_sluice_settings() {\n  compadd -S '' -- " + joined(settings(), " ") + "\n}\n" +
         "_sluice() {\n  local curcontext=$curcontext state line\n  local -a commands=(\n" + commands +
         "  )\n  _arguments -C \\\n" + options +
         "        '1: :->command' '*:: :->rest'\n"
         "  if [[ $state == command ]]; then\n    _describe -t commands command commands\n    return\n  fi\n"
         "  case $words[1] in\n" +
         cases +
         "  esac\n}\n# Read by compinit from fpath this file is the function itself; else it is sourced.\n"
         "if [[ $funcstack[1] == _sluice ]]; then _sluice \"$@\"; else compdef _sluice sluice; fi\n";
}

std::string fish_completion(const Outline& outline) {
  std::string text =
      "# fish completion for " + outline.version + ", made by `sluice completion fish`\n" + "complete -c sluice -f\n";
  for (const OptionOutline& option : outline.options) text += fish_option("__fish_use_subcommand", option);
  for (const CommandOutline& command : outline.commands) {
    text +=
        "complete -c sluice -n __fish_use_subcommand -a " + command.name + " -d " + single_quoted(command.about) + "\n";
    const std::string seen = "__fish_seen_subcommand_from " + command.name;
    for (const OptionOutline& option : command.options) text += fish_option(seen, option);
    if (takes_settings(command))
      text += "complete -c sluice -n " + single_quoted(seen) + " -a " + single_quoted(joined(settings(), " ")) + "\n";
    for (const OptionOutline& place : command.places)
      if (place.kind == ValueKind::file)
        text += "complete -c sluice -n " + single_quoted(seen) + " -F\n";
      else if (place.kind == ValueKind::folder || place.kind == ValueKind::choice)
        text += "complete -c sluice -n " + single_quoted(seen) + fish_value(place) + "\n";
  }
  return text;
}

}  // namespace sluice::cli
