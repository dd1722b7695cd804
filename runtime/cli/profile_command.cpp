#include <CLI/CLI.hpp>
#include <cstdlib>
#include <limits>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/cli/job_arguments.h"
#include "runtime/cli/runtime_library.h"
#include "runtime/core/result.h"
#include "runtime/train/study_run.h"

namespace sluice::cli {
namespace {

struct Arguments {
  JobArguments job;
  train::ProfileOptions of_job;
  train::StudyOptions of_study;
};

int profile_study(const Arguments& arguments, bool steps_given) {
  const train::ProfileOptions& options = arguments.of_job;
  if (options.json || !options.report.empty() || !options.trace.empty())
    throw SetupError(arguments.job.file + " is a study: --json, --report and --trace are of one job",
                     "a study writes study.json and report.html into its output_dir; leave the options out");
  train::Study study = train::read_study(arguments.job.file, arguments.job.overrides);
  if (steps_given) study.steps = options.steps;
  return train::run_study(study, arguments.of_study);
}

int profile_job(const Arguments& arguments) {
  if (!arguments.of_study.machine.empty() || arguments.of_study.plan_only)
    throw SetupError(arguments.job.file + " is a job: --machine and --plan-only are of a study",
                     "`sluice plan` plans one job, for another machine too");
  return runtime_library().profile(load_job(arguments.job), arguments.of_job);
}

}  // namespace

void add_profile(CLI::App& app, Action& action) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "profile", "run some steps of a job, or of each job of a study, and say where time, bytes and energy went");
  add_job_arguments(*command, arguments->job);
  command->get_option("job")->description("the job's YAML file, or a study's");
  train::ProfileOptions& options = arguments->of_job;
  options.ends_with_parent = std::getenv(train::kEndsWithParent) != nullptr;
  CLI::Option* steps = command->add_option("--steps", options.steps, "how many are measured, after 2 to warm up")
                           ->check(CLI::Range(int64_t{1}, std::numeric_limits<int64_t>::max() / 2).description(""))
                           ->type_name("N")
                           ->capture_default_str();
  command->add_flag("--json", options.json, "print JSON");
  command->add_option("--report", options.report, "write an HTML page that needs no network")->type_name("FILE.html");
  command->add_option("--trace", options.trace, "write a trace that Perfetto opens, a row per lane")
      ->type_name("FILE.json");
  command
      ->add_option("--machine", arguments->of_study.machine,
                   "a study's: plan it for the machine of this file, run nothing")
      ->type_name("MACHINE.yaml");
  command->add_flag("--plan-only", arguments->of_study.plan_only, "a study's: plan it, run nothing");
  command->callback([arguments, steps, &action] {
    action = [arguments, steps_given = steps->count() > 0] {
      return train::is_study(arguments->job.file) ? profile_study(*arguments, steps_given) : profile_job(*arguments);
    };
  });
}

}  // namespace sluice::cli
