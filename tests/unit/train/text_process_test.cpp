// The Python side as a process: requests and answers, notes, and every way in which it can fail. The programs here
// are stand-ins written by each test; test_text_process.py uses the real ones.
#include "runtime/train/text_process.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <sstream>

#include "runtime/core/result.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

class TextProcess : public JobFolder {
 protected:
  void SetUp() override {
    JobFolder::SetUp();
    std::filesystem::create_directory("text");
    write("text/preprocess.py", "");
    ::setenv("SLUICE_TEXT_DIR", (folder_ / "text").c_str(), 1);
    ::setenv("SLUICE_PYTHON", "python3", 1);
  }
  void TearDown() override {
    ::unsetenv("SLUICE_TEXT_DIR");
    ::unsetenv("SLUICE_PYTHON");
    JobFolder::TearDown();
  }

  static PreparedData prepare(const std::string& program, const std::string& job = minimal()) {
    write("text/preprocess.py", "import json, os, sys, time\n" + program);
    return prepare_data(load(job), {.debug_rows = 3});
  }
  static std::string failure(const std::string& program) {
    try {
      prepare(program);
    } catch (const SetupError& error) {
      return error.what();
    }
    return "accepted";
  }
  static std::string request() {
    std::ostringstream text;
    text << std::ifstream("request.json").rdbuf();
    return text.str();
  }
};

constexpr const char* kAnswer = R"(
open("request.json", "w").write(sys.stdin.read())
print(json.dumps({"train": "/c/train.tokens", "validation": None, "hash": "ab", "cached": False,
  "rows": 1, "documents": 2, "tokens": 3, "supervised_tokens": 4, "longest_row": 5,
  "validation_rows": 6, "validation_documents": 7, "validation_tokens": 8, "validation_supervised_tokens": 9,
  "validation_longest_row": 10, "dropped_too_long": 11, "dropped_unsupervised": 12}))
)";

TEST_F(TextProcess, the_request_holds_the_job_and_the_answer_comes_back) {
  const PreparedData data = prepare(kAnswer, minimal("sequence_len: 64\nval_set_size: 2\nsample_packing: true\n"
                                                     "dataset_prepared_path: cache\nseed: 9\n"));
  EXPECT_EQ(request(),
            R"({"base_model":"model","cache_dir":"cache","datasets":[{"path":"data.jsonl","type":"alpaca"}],)"
            R"("debug_rows":3,"progress":true,"sample_packing":true,"seed":9,"sequence_len":64,)"
            R"("shuffle_merged_datasets":true,"train_on_inputs":false,"val_set_size":2})"
            "\n");
  EXPECT_EQ(data.train, "/c/train.tokens");
  EXPECT_TRUE(data.validation.empty());
  EXPECT_EQ(data.hash, "ab");
  EXPECT_EQ(data.training_counts.tokens, 3);
  EXPECT_EQ(data.validation_counts.longest_row, 10);
  EXPECT_EQ(data.dropped_unsupervised, 12);
}

TEST_F(TextProcess, the_request_says_how_rows_are_read) {
  prepare(kAnswer,
          "base_model: model\nlearning_rate: 1e-5\ndataset_prepared_path: cache\ndatasets:\n"
          "  - path: data.jsonl\n    type: chat_template\n    field_messages: conversations\n"
          "    message_property_mappings: {role: from}\n    roles: {user: [human]}\n"
          "  - {path: data.jsonl, type: completion, field: content}\n");
  EXPECT_NE(
      request().find(R"("datasets":[{"field_messages":"conversations","message_property_mappings":{"role":"from"},)"
                     R"("path":"data.jsonl","roles":{"user":["human"]},"type":"chat_template"},)"
                     R"({"field":"content","path":"data.jsonl","type":"completion"}])"),
      std::string::npos)
      << request();
}

TEST_F(TextProcess, the_request_has_what_a_dataset_s_description_says) {
  write("dataset_info.json", R"({"one": {"file_name": "data.jsonl", "num_samples": 3,
    "columns": {"prompt": "question", "response": "answer"}}})");
  prepare(kAnswer, "model_name_or_path: model\nlearning_rate: 1e-5\ndataset_dir: .\ndataset: one\nval_size: 0.25\n");
  EXPECT_NE(request().find(R"("datasets":[{"columns":{"prompt":"question","response":"answer"},"path":"./data.jsonl",)"
                           R"("rows_max":3,"type":"instruction"}])"),
            std::string::npos)
      << request();
  EXPECT_NE(request().find(R"("val_set_size":0.25)"), std::string::npos) << request();
}

TEST_F(TextProcess, a_validation_set_has_a_file_of_its_own) {
  const PreparedData data =
      prepare(std::string("dumps = json.dumps\n"
                          "json.dumps = lambda answer: dumps({**answer, 'validation': '/c/v'})\n") +
              kAnswer);
  EXPECT_EQ(data.validation, "/c/v");
}

TEST_F(TextProcess, its_error_becomes_ours_with_its_fix) {
  EXPECT_EQ(failure("sys.stderr.write('error: rows.jsonl:3: not JSON\\n  fix: repair it\\n'); sys.exit(2)"),
            "rows.jsonl:3: not JSON\n  fix: repair it");
}

TEST_F(TextProcess, notes_before_an_error_are_shown_and_not_part_of_it) {
  testing::internal::CaptureStderr();
  const std::string message = failure("sys.stderr.write('note: 5 rows\\nerror: bad\\n'); sys.exit(2)");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "note: 5 rows\n");
  EXPECT_EQ(message, "bad");
}

class WorkSeen : public WorkObserver {
 public:
  void work_began(const std::string& what, int64_t total, WorkUnit) override {
    said.push_back(what + " " + std::to_string(total));
  }
  void work_advanced(int64_t done) override { said.push_back(std::to_string(done)); }
  void work_ended() override { said.push_back("ended"); }

  std::vector<std::string> said;
};

TEST_F(TextProcess, how_far_it_is_becomes_work_until_another_line_comes) {
  write("text/preprocess.py", std::string(R"(import json, sys
for line in ("progress: 0 10", "progress: 10 10", "note: on", "progress: half", "progress: 3 0"):
    print(line, file=sys.stderr, flush=True)
)") + kAnswer);
  WorkSeen seen;
  testing::internal::CaptureStderr();
  prepare_data(load(minimal()), {}, seen);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "note: on\nprogress: half\n");
  ASSERT_FALSE(seen.said.empty());
  EXPECT_EQ(seen.said.front(), "preparing the datasets 10");
  EXPECT_EQ(std::count(seen.said.begin(), seen.said.end(), "ended"), 2);
  EXPECT_EQ(std::count(seen.said.begin(), seen.said.end(), "preparing the datasets' rows 0"), 1);
}

TEST_F(TextProcess, more_notes_than_a_pipe_holds_pass) {
  testing::internal::CaptureStderr();
  prepare(std::string("for i in range(20000): print('note:', i, file=sys.stderr)\n") + kAnswer);
  const std::string notes = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(notes.begin(), notes.end(), '\n'), 20000);
}

TEST_F(TextProcess, a_program_that_breaks_shows_what_it_said) {
  const std::string message = failure("raise RuntimeError('no such thing')");
  EXPECT_NE(message.find("the text side (python3) ended with code 1:\nTraceback"), std::string::npos) << message;
  EXPECT_NE(message.find("RuntimeError: no such thing"), std::string::npos) << message;
  EXPECT_NE(message.find("\n  fix: `make setup` prepares the Python side"), std::string::npos) << message;
}

TEST_F(TextProcess, a_program_that_is_killed_says_by_what) {
  const std::string message = failure("os.kill(os.getpid(), 9)");
  EXPECT_NE(message.find("was ended by signal 9 (out of memory?)"), std::string::npos) << message;
}

TEST_F(TextProcess, a_program_that_ends_without_its_error_shows_all_there_is) {
  const std::string fix = "\n  fix: `make setup` prepares the Python side; SLUICE_PYTHON names another interpreter";
  EXPECT_EQ(failure("os.kill(os.getpid(), 15)"), "the text side (python3) was ended by signal 15" + fix);
  EXPECT_EQ(failure("sys.exit(3)"), "the text side (python3) ended with code 3" + fix);
  EXPECT_EQ(failure("print('half a summary'); sys.exit(3)"),
            "the text side (python3) ended with code 3:\nhalf a summary\n" + fix);
  EXPECT_EQ(failure("sys.stderr.write('no mark'); sys.exit(2)"),
            "the text side (python3) ended with code 2:\nno mark" + fix);
  EXPECT_EQ(failure("sys.stderr.write('error: it broke'); sys.exit(3)"),
            "the text side (python3) ended with code 3:\nerror: it broke" + fix);
}

TEST_F(TextProcess, a_line_that_tells_of_an_error_in_its_middle_is_a_note) {
  testing::internal::CaptureStderr();
  const std::string message =
      failure("sys.stderr.write('note: no error: all is well\\nerror: this one\\n'); sys.exit(2)");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "note: no error: all is well\n");
  EXPECT_EQ(message, "this one");
}

TEST_F(TextProcess, a_note_without_an_end_of_its_line_is_shown_too) {
  testing::internal::CaptureStderr();
  prepare(std::string(kAnswer) + "sys.stderr.write('note: that is all')");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "note: that is all");
}

TEST_F(TextProcess, without_a_name_the_interpreter_is_the_build_s) {
  const std::string built_with = SLUICE_BUILD_PYTHON;
  for (const bool is_empty : {true, false}) {
    is_empty ? ::setenv("SLUICE_PYTHON", "", 1) : ::unsetenv("SLUICE_PYTHON");
    EXPECT_EQ(failure("sys.exit(3)"),
              "the text side (" + (std::filesystem::exists(built_with) ? built_with : "python3") +
                  ") ended with code 3\n  fix: `make setup` prepares the Python side; SLUICE_PYTHON names another "
                  "interpreter");
  }
}

TEST_F(TextProcess, a_path_that_is_no_utf8_is_refused) {
  Config job = load(minimal());
  job.base_model = "\xff";
  try {
    prepare_data(job, {});
    FAIL() << "JSON holds no such text";
  } catch (const SetupError& error) {
    EXPECT_EQ(error.error().message.find("a path or a prompt is not UTF-8: "), 0u) << error.what();
    EXPECT_EQ(error.error().hint, "write it in UTF-8");
  }
}

TEST_F(TextProcess, an_answer_that_is_no_summary_is_refused) {
  EXPECT_NE(failure("print('{\"train\": \"/c/train.tokens\"}')").find("something else than its summary: {\"train\""),
            std::string::npos);
  EXPECT_NE(failure("print('hello')").find("answered with something else than its summary: hello"), std::string::npos);
}

TEST_F(TextProcess, an_interpreter_that_is_not_there) {
  ::setenv("SLUICE_PYTHON", "/no/such/python", 1);
  EXPECT_EQ(failure(""),
            "cannot start /no/such/python: No such file or directory\n  fix: `make setup` prepares the "
            "Python side; SLUICE_PYTHON names another interpreter");
}

TEST_F(TextProcess, programs_that_are_not_there) {
  ::setenv("SLUICE_TEXT_DIR", "/nowhere", 1);
  EXPECT_EQ(failure(""),
            "the text programs are not there: no preprocess.py in /nowhere\n  fix: set SLUICE_TEXT_DIR to "
            "the folder runtime/text of Sluice's source");
}

constexpr const char* kServer = R"(
import json, sys
greeting = {"ready": True, "eos_token_ids": [2, 7], "vocabulary_size": 100, "has_chat_template": True}
print(json.dumps(greeting), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    op = request["op"]
    if op == "encode": answer = {"ids": [len(word) for word in request["text"].split()]}
    elif op == "encode_chat": answer = {"ids": [len(turn["content"]) for turn in request["messages"]]}
    elif op == "decode": answer = {"text": "".join(map(chr, request["ids"]))}
    elif op == "stream": answer = {"text": "+".join(map(str, request["ids"]))}
    elif op == "stream_end": answer = {"text": "\u00e9"}
    elif op == "stream_begin": answer = {}
    print(json.dumps(answer if request.get("text") != "refuse" else {"error": "will not"}), flush=True)
    if request.get("text") == "die": sys.exit(3)
)";

TEST_F(TextProcess, a_server_answers_until_it_is_let_go) {
  write("text/serve.py", kServer);
  TextServer server("model");
  EXPECT_EQ(server.eos_token_ids(), (std::vector<int32_t>{2, 7}));
  EXPECT_EQ(server.vocabulary_size(), 100);
  EXPECT_TRUE(server.has_chat_template());
  EXPECT_EQ(server.encode("one three"), (std::vector<int32_t>{3, 5}));
  const std::vector<ChatMessage> messages = {{"system", "ab"}, {"user", "\"quoted\"\n"}};
  EXPECT_EQ(server.encode_chat(messages), (std::vector<int32_t>{2, 9}));
  EXPECT_EQ(server.decode(std::vector<int32_t>{72, 105}), "Hi");
  server.stream_begin();
  EXPECT_EQ(server.stream(std::vector<int32_t>{1, 2}), "1+2");
  EXPECT_EQ(server.stream_end(), "\u00e9");
}

TEST_F(TextProcess, what_a_server_refuses_is_a_set_up_error_and_it_goes_on) {
  write("text/serve.py", kServer);
  TextServer server("model");
  EXPECT_THROW(server.encode("refuse"), SetupError);
  EXPECT_EQ(server.encode("x"), std::vector<int32_t>{1});
}

TEST_F(TextProcess, a_server_that_ends_is_an_error_and_not_a_signal) {
  write("text/serve.py", kServer);
  TextServer server("model");
  server.encode("die");
  for (int i = 0; i < 2; ++i) EXPECT_THROW(server.encode("anyone?"), RunError);
}

// What a server says last is part of the error, whether its end is met while asking or while waiting for the answer.
TEST_F(TextProcess, a_server_that_breaks_shows_what_it_said) {
  const std::string greet =
      "import json, os, sys\n"
      "greeting = {'ready': True, 'eos_token_ids': [], 'vocabulary_size': 1, 'has_chat_template': False}\n"
      "def greet(): print(json.dumps(greeting), flush=True)\n";
  const std::string break_down = "sys.stderr.write('no memory')\nos._exit(9)\n";
  for (const std::string& program :
       {greet + "os.close(0)\ngreet()\n" + break_down, greet + "greet()\nsys.stdin.readline()\n" + break_down,
        greet + "greet()\nsys.stdin.readline()\nprint('{\"ids\": [1', end='', flush=True)\n" + break_down}) {
    write("text/serve.py", program);
    TextServer server("model");
    EXPECT_FALSE(server.has_chat_template());
    try {
      server.encode("anyone?");
      FAIL() << program;
    } catch (const RunError& error) {
      EXPECT_EQ(error.error().message, "the text side has ended (code 9): no memory") << program;
    }
  }
}

TEST_F(TextProcess, a_server_that_answers_with_no_object_is_refused) {
  std::string program = kServer;
  program.replace(program.find("print(json.dumps(answer"), 0, "print('[1, 2]', flush=True); continue\n    ");
  write("text/serve.py", program);
  TextServer server("model");
  try {
    server.encode("x");
    FAIL();
  } catch (const RunError& error) {
    EXPECT_EQ(error.error().message, "the text side answered: [1, 2]");
  }
}

TEST_F(TextProcess, a_server_that_cannot_start_gives_its_message) {
  write("text/serve.py",
        "import sys\nsys.stderr.write('error: model: no tokenizer.json\\n  fix: copy it\\n')\nsys.exit(2)\n");
  try {
    const TextServer server("model");
    FAIL();
  } catch (const SetupError& error) {
    EXPECT_EQ(std::string(error.what()), "model: no tokenizer.json\n  fix: copy it");
  }
}

TEST_F(TextProcess, invalid_utf8_in_a_prompt_is_refused_and_not_thrown_through) {
  write("text/serve.py", kServer);
  TextServer server("model");
  EXPECT_THROW(server.encode("\xff\xfe"), SetupError);
}

}  // namespace
}  // namespace sluice::train
