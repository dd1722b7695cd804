#include <CLI/CLI.hpp>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/cli/job_arguments.h"
#include "runtime/cli/runtime_library.h"
#include "runtime/train/doctor.h"

namespace sluice::cli {

void add_doctor(CLI::App& app, Action& action) {
  struct Arguments {
    JobArguments job;
    train::DoctorOptions options;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("doctor", "see what this machine can do, and which command mends what it cannot");
  command->footer("Exit codes: 0 a job can run; 2 something prevents it.");
  command->add_option("job", arguments->job.file, "look at this job's paths and device")->type_name("JOB.yaml");
  command
      ->add_option("settings", arguments->job.overrides, "settings that go over the file's, e.g. offload.max_cpu=4GiB")
      ->type_name("KEY=VALUE");
  command
      ->add_option("--nvme,--nvme-path", arguments->options.nvme_paths,
                   "a folder on a drive to look at, one each time; the current one when no job is given either")
      ->type_name("DIR")
      ->allow_extra_args(false);
  command->add_flag("--json", arguments->options.json, "print JSON");
  command->callback([arguments, &action] {
    action = [arguments] {
      train::DoctorOptions& options = arguments->options;
      if (!arguments->job.file.empty()) options.job = load_job(arguments->job);
      options.open_gpu = [] { return runtime_library().open_gpu(); };
      options.load_runtime = [] { runtime_library(); };
      return train::run_doctor(options);
    };
  });
}

}  // namespace sluice::cli
