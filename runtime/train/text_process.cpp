#include "runtime/train/text_process.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "runtime/core/result.h"
#include "runtime/train/child_process.h"
#include "runtime/train/metrics.h"
#include "runtime/train/shipped_folder.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kUserErrorExitCode = 2;  // runtime/text/README.md
constexpr const char* kErrorMark = "error: ";
constexpr const char* kFixMark = "\n  fix: ";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string python() {
  if (const std::string named = environment("SLUICE_PYTHON"); !named.empty()) return named;
  const std::string built_with = SLUICE_BUILD_PYTHON;
  return !built_with.empty() && fs::exists(built_with) ? built_with : "python3";
}

fs::path text_folder() {
  return find_shipped({"the text programs are", "text", "preprocess.py", "SLUICE_TEXT_DIR", SLUICE_BUILD_TEXT_DIR});
}

std::vector<std::string> command_for(const char* program, std::vector<std::string> arguments) {
  std::vector<std::string> command = {python(), text_folder() / program};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

// The text side sees a pipe where we have a terminal: say so, for its colours.
std::vector<std::string> text_environment() {
  std::vector<std::string> changed = {"PYTHONUTF8=1"};
  if (wants_colour(STDERR_FILENO)) changed.push_back("CLICOLOR_FORCE=1");
  return changed;
}

// "error: what\n  fix: how" as the text side says it, or whatever it said when it broke.
[[noreturn]] void fail(const ChildProcess& child, int code, const std::string& errors) {
  std::string text = errors;
  while (text.ends_with('\n')) text.pop_back();
  if (code == kUserErrorExitCode && text.starts_with(kErrorMark)) {
    text.erase(0, std::string(kErrorMark).size());
    const size_t fix = text.rfind(kFixMark);
    const bool has_fix = fix != std::string::npos;
    throw SetupError(has_fix ? text.substr(0, fix) : text,
                     has_fix ? text.substr(fix + std::string(kFixMark).size()) : "");
  }
  const std::string how = code < 0
                              ? "was ended by signal " + std::to_string(-code) + (code == -9 ? " (out of memory?)" : "")
                              : "ended with code " + std::to_string(code);
  const std::string said = text.empty() ? child.output : text;
  throw SetupError("the text side (" + python() + ") " + how + (said.empty() ? "" : ":\n" + said),
                   "`make setup` prepares the Python side; SLUICE_PYTHON names another interpreter");
}

// Where the final message begins: at a line that starts with "error: ", or at a Python traceback.
size_t find_message(const std::string& errors) {
  for (const std::string_view mark : {std::string_view(kErrorMark), std::string_view("Traceback (most recent")})
    for (size_t at = errors.find(mark); at != std::string::npos; at = errors.find(mark, at + 1))
      if (at == 0 || errors[at - 1] == '\n') return at;
  return std::string::npos;
}

// Notes and debug rows go to the user as they come, line by line; a final message is kept back for the exception. Lines
// that tell how far it is become `work`, which lives until another line comes.
class NotesShown {
 public:
  explicit NotesShown(WorkObserver& observer) : observer_(observer) {}

  void show(std::string& errors) {
    size_t end = find_message(errors);
    if (end == std::string::npos) end = errors.rfind('\n') + 1;  // 0 when there is no whole line
    std::string_view lines = std::string_view(errors).substr(0, end);
    while (!lines.empty()) {
      const std::string_view line = lines.substr(0, lines.find('\n') + 1);
      lines.remove_prefix(line.size());
      if (advance(line)) continue;
      work_.reset();
      std::fwrite(line.data(), 1, line.size(), stderr);
    }
    errors.erase(0, end);
  }

 private:
  // "progress: DONE TOTAL", in characters of the datasets' files; the total 0 where nobody knows, and rows then.
  bool advance(std::string_view line) {
    constexpr std::string_view kMark = "progress: ";
    if (!line.starts_with(kMark)) return false;
    long long done = 0, total = 0;
    if (std::sscanf(std::string(line.substr(kMark.size())).c_str(), "%lld %lld", &done, &total) != 2) return false;
    if (!work_) {
      work_ = std::make_unique<Work>(observer_, total > 0 ? "preparing the datasets" : "preparing the datasets' rows",
                                     total, total > 0 ? WorkUnit::bytes : WorkUnit::items);
      done_ = 0;
    }
    work_->add(done - std::exchange(done_, done));
    return true;
  }

  WorkObserver& observer_;
  std::unique_ptr<Work> work_;
  long long done_ = 0;
};

const char* name_of(DatasetType type) {
  switch (type) {
    case DatasetType::alpaca:
      return "alpaca";
    case DatasetType::chat_template:
      return "chat_template";
    case DatasetType::completion:
      return "completion";
    case DatasetType::instruction:
      return "instruction";
  }
  return "";
}

// Only what the job says: the text side has the defaults.
json dataset_of(const DatasetConfig& dataset) {
  json entry = {{"path", dataset.path}, {"type", name_of(dataset.type)}};
  if (!dataset.field.empty()) entry["field"] = dataset.field;
  if (!dataset.field_messages.empty()) entry["field_messages"] = dataset.field_messages;
  if (!dataset.message_properties.empty()) entry["message_property_mappings"] = dataset.message_properties;
  if (!dataset.roles.empty()) entry["roles"] = dataset.roles;
  if (!dataset.columns.empty()) entry["columns"] = dataset.columns;
  if (dataset.rows_max > 0) entry["rows_max"] = dataset.rows_max;
  return entry;
}

json request_of(const Config& config, const PrepareOptions& options) {
  json request;
  request["progress"] = true;
  request["base_model"] = config.base_model.string();
  for (const DatasetConfig& dataset : config.datasets) request["datasets"].push_back(dataset_of(dataset));
  request["sequence_len"] = config.sequence_len;
  request["cache_dir"] = config.dataset_prepared_path.string();
  if (config.val_set_size < 1)
    request["val_set_size"] = config.val_set_size;
  else
    request["val_set_size"] = static_cast<int64_t>(config.val_set_size);
  request["sample_packing"] = config.sample_packing;
  request["train_on_inputs"] = config.train_on_inputs;
  request["shuffle_merged_datasets"] = config.shuffle_merged_datasets;
  request["seed"] = config.seed;
  request["debug_rows"] = options.debug_rows;
  return request;
}

// What people type need not be text.
std::string text_of(const json& request) {
  try {
    return request.dump() + "\n";
  } catch (const json::type_error& error) {
    throw SetupError(std::string("a path or a prompt is not UTF-8: ") + error.what(), "write it in UTF-8");
  }
}

SplitCounts counts_of(const json& summary, const std::string& prefix) {
  const auto count = [&](const char* name) { return summary.at(prefix + name).get<int64_t>(); };
  return {count("rows"), count("documents"), count("tokens"), count("supervised_tokens"), count("longest_row")};
}

PreparedData data_of(const json& summary) {
  PreparedData data;
  data.train = summary.at("train").get<std::string>();
  if (!summary.at("validation").is_null()) data.validation = summary.at("validation").get<std::string>();
  data.hash = summary.at("hash").get<std::string>();
  data.cached = summary.at("cached").get<bool>();
  data.training_counts = counts_of(summary, "");
  data.validation_counts = counts_of(summary, "validation_");
  data.dropped_too_long = summary.at("dropped_too_long").get<int64_t>();
  data.dropped_unsupervised = summary.at("dropped_unsupervised").get<int64_t>();
  return data;
}

}  // namespace

PreparedData prepare_data(const Config& config, const PrepareOptions& options, WorkObserver& observer) {
  const std::string request = text_of(request_of(config, options));
  std::fflush(nullptr);
  ChildProcess child(command_for("preprocess.py", {"--request", "-"}), text_environment());
  child.write(request);
  child.close_input();
  {
    NotesShown notes(observer);
    while (child.read_more()) notes.show(child.errors);
  }
  const int code = child.wait();
  if (code != 0) fail(child, code, child.errors);
  std::fputs(child.errors.c_str(), stderr);
  try {
    return data_of(json::parse(child.output));
  } catch (const json::exception& error) {
    throw SetupError("the text side answered with something else than its summary: " + child.output.substr(0, 200),
                     "the text programs and this binary must be of one version (" + std::string(error.what()) + ")");
  }
}

std::string check_text_side() {
  static constexpr const char* kProgram =
      "import sys; sys.path.insert(0, sys.argv[1]); import jinja2, pyarrow, tokenizers, sluice_text.prepare; "
      "print('Python ' + sys.version.split()[0] + ' (' + sys.executable + ')', end='')";
  ChildProcess child({python(), "-c", kProgram, text_folder()}, text_environment());
  child.close_input();
  while (child.read_more()) {
  }
  if (const int code = child.wait(); code != 0) fail(child, code, child.errors);
  return child.output;
}

struct TextServer::Impl {
  explicit Impl(const fs::path& model)
      : child(command_for("serve.py", {"--model", model.string()}), text_environment()) {}

  json read_line() {
    size_t end;
    while ((end = child.output.find('\n')) == std::string::npos)
      if (!child.read_more() && child.output.find('\n') == std::string::npos) gone();
    const std::string line = child.output.substr(0, end);
    child.output.erase(0, end + 1);
    json answer = json::parse(line, nullptr, false);
    if (!answer.is_object()) throw RunError({ErrorCode::io, "the text side answered: " + line.substr(0, 200), ""});
    return answer;
  }

  json ask(const json& request) {
    if (!child.write(text_of(request))) {
      while (child.read_more()) {
      }
      gone();
    }
    json answer = read_line();
    if (answer.contains("error")) throw SetupError(answer.at("error").get<std::string>(), "");
    return answer;
  }

  [[noreturn]] void gone() {
    const int code = child.wait();
    if (!ready) fail(child, code, child.errors);
    throw RunError({ErrorCode::io, "the text side has ended (code " + std::to_string(code) + "): " + child.errors, ""});
  }

  ChildProcess child;
  bool ready = false;
};

TextServer::TextServer(const fs::path& model) : impl_(std::make_unique<Impl>(model)) {
  const json greeting = impl_->read_line();
  impl_->ready = true;
  eos_token_ids_ = greeting.at("eos_token_ids").get<std::vector<int32_t>>();
  vocabulary_size_ = greeting.at("vocabulary_size").get<int64_t>();
  has_chat_template_ = greeting.at("has_chat_template").get<bool>();
}

TextServer::~TextServer() = default;

std::vector<int32_t> TextServer::encode_chat(std::span<const ChatMessage> messages) {
  json turns = json::array();
  for (const ChatMessage& message : messages) turns.push_back({{"role", message.role}, {"content", message.content}});
  const json request = {{"op", "encode_chat"}, {"messages", turns}, {"add_generation_prompt", true}};
  return impl_->ask(request).at("ids").get<std::vector<int32_t>>();
}

std::vector<int32_t> TextServer::encode(const std::string& text) {
  const json request = {{"op", "encode"}, {"text", text}, {"add_special_tokens", true}};
  return impl_->ask(request).at("ids").get<std::vector<int32_t>>();
}

std::string TextServer::decode(std::span<const int32_t> ids) {
  const json request = {{"op", "decode"}, {"ids", std::vector(ids.begin(), ids.end())}, {"skip_special_tokens", true}};
  return impl_->ask(request).at("text").get<std::string>();
}

void TextServer::stream_begin() { impl_->ask({{"op", "stream_begin"}, {"skip_special_tokens", true}}); }

std::string TextServer::stream(std::span<const int32_t> ids) {
  const json request = {{"op", "stream"}, {"ids", std::vector(ids.begin(), ids.end())}};
  return impl_->ask(request).at("text").get<std::string>();
}

std::string TextServer::stream_end() { return impl_->ask({{"op", "stream_end"}}).at("text").get<std::string>(); }

}  // namespace sluice::train
