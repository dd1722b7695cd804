// The Python side of text (runtime/text/README.md), run as a subprocess: datasets to token files, words to ids and
// back.
//
// Interpreter: $SLUICE_PYTHON, else the one named at build, else python3. Programs: $SLUICE_TEXT_DIR, else `text`
// beside the binary or the library, else the source folder named at build.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/work.h"
#include "runtime/train/config.h"

namespace sluice::train {

struct SplitCounts {
  int64_t rows = 0;
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t supervised_tokens = 0;
  int64_t longest_row = 0;
};

struct PreparedData {
  std::filesystem::path train;
  std::filesystem::path validation;  // empty: none
  std::string hash;
  bool cached = false;
  SplitCounts training_counts, validation_counts;
  int64_t dropped_too_long = 0;
  int64_t dropped_unsupervised = 0;
};

struct PrepareOptions {
  int64_t debug_rows = 0;  // rows shown on stderr with their masks
};

// Finds or writes the job's token files. Notes go to stderr as they come. Throws SetupError with the text side's
// message.
PreparedData prepare_data(const Config& config, const PrepareOptions& options = {}, WorkObserver& observer = nobody());

// "Python 3.11.2 (/usr/bin/python3)", once it has really loaded the text side's libraries. Throws SetupError as
// prepare_data.
std::string check_text_side();

struct ChatMessage {
  std::string role;  // system, user, assistant
  std::string content;
};

// Words to ids and back for one model directory. The process ends with the object. Not thread-safe.
class TextServer {
 public:
  // Throws SetupError with the text side's message.
  explicit TextServer(const std::filesystem::path& model);
  ~TextServer();
  TextServer(const TextServer&) = delete;
  TextServer& operator=(const TextServer&) = delete;

  const std::vector<int32_t>& eos_token_ids() const { return eos_token_ids_; }
  int64_t vocabulary_size() const { return vocabulary_size_; }
  bool has_chat_template() const { return has_chat_template_; }

  // All throw SetupError when the text side refuses, RunError when its process is gone.
  // The conversation followed by the opening of the assistant's turn.
  std::vector<int32_t> encode_chat(std::span<const ChatMessage> messages);
  // With the tokens that the tokenizer puts around a text (begin of sequence).
  std::vector<int32_t> encode(const std::string& text);
  std::string decode(std::span<const int32_t> ids);

  // A text that grows: `stream` gives what became final, which is nothing inside a character.
  void stream_begin();
  std::string stream(std::span<const int32_t> ids);
  std::string stream_end();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::vector<int32_t> eos_token_ids_;
  int64_t vocabulary_size_ = 0;
  bool has_chat_template_ = false;
};

}  // namespace sluice::train
