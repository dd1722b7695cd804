#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/cli/job_arguments.h"
#include "runtime/core/work_line.h"
#include "runtime/train/text_process.h"

namespace sluice::cli {
namespace {

constexpr int64_t kDebugRows = 5;

void show_split(const char* name, const std::filesystem::path& file, const train::SplitCounts& counts) {
  const auto number = [](int64_t value) { return static_cast<long long>(value); };
  std::printf("%-11s %s\n", name, file.c_str());
  std::printf("            %lld rows, %lld documents, %lld tokens (%lld trained on), longest row %lld\n",
              number(counts.rows), number(counts.documents), number(counts.tokens), number(counts.supervised_tokens),
              number(counts.longest_row));
}

int preprocess(const train::Config& config, int64_t debug_rows) {
  train::PreparedData data;
  {
    LiveLine live(STDERR_FILENO);
    Console errors(STDERR_FILENO, &live);
    WorkLine line(live, errors);
    data = train::prepare_data(config, {debug_rows}, line);
  }
  show_split("training", data.train, data.training_counts);
  if (!data.validation.empty()) show_split("validation", data.validation, data.validation_counts);
  if (data.dropped_too_long + data.dropped_unsupervised > 0)
    std::printf("left out    %lld rows longer than sequence_len, %lld rows with nothing to train on\n",
                static_cast<long long>(data.dropped_too_long), static_cast<long long>(data.dropped_unsupervised));
  if (data.cached) std::printf("nothing to do: it was prepared before\n");
  return 0;
}

}  // namespace

void add_preprocess(CLI::App& app, Action& action) {
  struct Arguments {
    JobArguments job;
    int64_t debug_rows = 0;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("preprocess", "turn a job's datasets into token files, as `train` does by itself");
  add_job_arguments(*command, arguments->job);
  command->add_flag("--debug{" + std::to_string(kDebugRows) + "}", arguments->debug_rows,
                    "show rows with each token's label and id; --debug=N for another number than 5");
  command->callback([arguments, &action] {
    action = [arguments] { return preprocess(load_job(arguments->job), arguments->debug_rows); };
  });
}

}  // namespace sluice::cli
