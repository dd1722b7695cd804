#include <cctype>

#include "runtime/cli/outline.h"

namespace sluice::cli {
namespace {

// Text as it stands: no request, no escape, and hyphens that can be copied out of an example.
std::string roff(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    const bool begins_line = escaped.empty() || escaped.back() == '\n';
    if (begins_line && (c == '.' || c == '\'')) escaped += "\\&";
    if (c == '\\')
      escaped += "\\e";
    else if (c == '-')
      escaped += "\\-";
    else if (c == '`')
      escaped += "\\(ga";
    else if (c == '\'')
      escaped += "\\(aq";
    else
      escaped += c;
  }
  return escaped;
}

std::string bold(const std::string& text) { return "\\fB" + roff(text) + "\\fR"; }
std::string slanted(const std::string& text) { return "\\fI" + roff(text) + "\\fR"; }

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

std::string tag_of(const OptionOutline& option) {
  std::string tag;
  for (const std::string& name : option.names) tag += (tag.empty() ? "" : ", ") + bold(name);
  if (!option.value.empty()) tag += (tag.empty() ? "" : " ") + slanted(option.value);
  return tag;
}

std::string paragraph(const OptionOutline& option) {
  std::string text = ".TP\n" + tag_of(option) + "\n" + roff(option.about);
  if (!option.preset.empty()) text += " (default: " + roff(option.preset) + ")";
  return text + "\n";
}

std::string usage(const CommandOutline& command) {
  std::string text = bold("sluice " + command.name) + (command.options.empty() ? "" : " [" + slanted("OPTIONS") + "]");
  for (const OptionOutline& option : command.options)
    if (option.required) text += " " + tag_of(option);
  for (const OptionOutline& place : command.places) {
    const std::string value = slanted(place.value) + (place.repeats ? " ..." : "");
    text += place.required ? " " + value : " [" + value + "]";
  }
  return text;
}

// Lines as they stand.
std::string as_it_stands(const std::string& text) {
  return ".PP\n.nf\n" + roff(text) + (text.ends_with('\n') ? "" : "\n") + ".fi\n";
}

}  // namespace

std::string man_page(const Outline& outline) {
  std::string text =
      ".\\\" Made by `sluice man`.\n.TH SLUICE 1 \"\" \"" + roff(outline.version) + "\" \"User Commands\"\n";
  text +=
      ".SH NAME\nsluice \\- fine\\-tunes language models that do not fit the machine they are trained on\n.SH "
      "SYNOPSIS\n";
  for (const CommandOutline& command : outline.commands) text += usage(command) + "\n.br\n";
  text += ".SH DESCRIPTION\n" + roff(outline.about) +
          " A model is streamed block by block through compute; the rest of it is kept in memory and on drives.\n";
  text += ".SH OPTIONS\n";
  for (const OptionOutline& option : outline.options) text += paragraph(option);
  text += ".SH COMMANDS\n";
  std::string keys;
  for (const CommandOutline& command : outline.commands) {
    text += ".SS " + upper(command.name) + "\n" + usage(command) + "\n.PP\n" + roff(command.about) + ".\n";
    for (const OptionOutline& place : command.places) text += paragraph(place);
    for (const OptionOutline& option : command.options) text += paragraph(option);
    // The keys of a job are said once.
    const bool has_keys = command.footer.starts_with("Keys of a job");
    if (has_keys) keys = command.footer;
    if (!has_keys && !command.footer.empty()) text += as_it_stands(command.footer);
  }
  if (!keys.empty()) text += ".SH KEYS OF A JOB\n" + as_it_stands(keys.substr(keys.find('\n') + 1));
  text +=
      ".SH EXIT STATUS\n.TP\n0\nDone.\n.TP\n2\nThe command line, the job or the set\\-up is wrong; nothing was "
      "written.\n"
      ".TP\n3\nA run failed; its last checkpoint is intact.\n"
      ".TP\n130, 143\nStopped by SIGINT or SIGTERM, after a step, with a checkpoint.\n";
  text +=
      ".SH ENVIRONMENT\n.TP\nNO_COLOR\nWhere it is set, no colours.\n"
      ".TP\nXDG_CACHE_HOME\nIts folder sluice holds measurements, prepared datasets and quantised bases.\n"
      ".TP\nSLUICE_PYTHON, SLUICE_TEXT_DIR\nThe interpreter and the programs that prepare text.\n"
      ".TP\nSLUICE_REPORT_DIR\nThe page that reports are made of.\n";
  return text;
}

}  // namespace sluice::cli
