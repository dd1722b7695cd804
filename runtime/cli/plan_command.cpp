#include <CLI/CLI.hpp>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/cli/job_arguments.h"
#include "runtime/cli/runtime_library.h"

namespace sluice::cli {

void add_plan(CLI::App& app, Action& action) {
  struct Arguments {
    JobArguments job;
    train::PlanOptions options;
    std::string beside;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("plan", "show how a job would run: where things live, peak bytes, the schedule");
  add_job_arguments(*command, arguments->job);
  command->add_flag("--json", arguments->options.json, "print JSON");
  command
      ->add_option("--machine", arguments->options.machine,
                   "plan for the machine of this file (`sluice probe` writes one, configs/machine has some)")
      ->type_name("MACHINE.yaml");
  command->add_option("--diff", arguments->beside, "another job: print how its plan differs from this one's")
      ->type_name("OTHER.yaml");
  command->add_flag("--rehearse", arguments->options.rehearse,
                    "then run steps here, drives and copies and the update real, compute waited for as planned");
  command->callback([arguments, &action] {
    action = [arguments] {
      if (!arguments->beside.empty())
        arguments->options.beside = load_job({arguments->beside, arguments->job.overrides});
      return runtime_library().plan(load_job(arguments->job), arguments->options);
    };
  });
}

}  // namespace sluice::cli
