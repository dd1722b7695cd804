#include <CLI/CLI.hpp>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/cli/job_arguments.h"
#include "runtime/cli/runtime_library.h"

namespace sluice::cli {

void add_train(CLI::App& app, Action& action) {
  struct Arguments {
    JobArguments job;
    train::TrainOptions options;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("train", "fine-tune a model as a job file says");
  add_job_arguments(*command, arguments->job);
  command->add_flag("--dry-run", arguments->options.dry_run, "print the plan and its schedule, train nothing");
  command->add_option("--trace", arguments->options.trace, "write a trace that Perfetto opens, a row per lane")
      ->type_name("FILE.json");
  CLI::Option* quiet =
      command->add_flag("--quiet", arguments->options.quiet, "neither a line per step, nor how far preparations are");
  command
      ->add_flag("--json", arguments->options.json, "print each step as a line of JSON, what else there is to stderr")
      ->excludes(quiet);
  command->callback([arguments, &action] {
    action = [arguments] { return runtime_library().train(load_job(arguments->job), arguments->options); };
  });
}

}  // namespace sluice::cli
