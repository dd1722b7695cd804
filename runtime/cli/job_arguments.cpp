#include "runtime/cli/job_arguments.h"

#include <CLI/CLI.hpp>
#include <cstdio>

namespace sluice::cli {

void add_job_arguments(CLI::App& command, JobArguments& arguments) {
  command.add_option("job", arguments.file, "the job's YAML file")->required()->type_name("JOB.yaml");
  command
      .add_option("settings", arguments.overrides,
                  "settings that go over the file's, e.g. max_steps=10 offload.max_cpu=4GiB")
      ->type_name("KEY=VALUE");
  command.footer("Keys of a job (other trainers' spellings in brackets):\n" + train::describe_keys());
}

train::Config load_job(const JobArguments& arguments) {
  train::Config config = train::load_config(arguments.file, arguments.overrides);
  for (const std::string& note : config.notes) std::fprintf(stderr, "note: %s\n", note.c_str());
  return config;
}

}  // namespace sluice::cli
