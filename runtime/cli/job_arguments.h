// What `train`, `plan` and `preprocess` share: a job's file and settings of the command line that go over it.
#pragma once

#include <string>
#include <vector>

#include "runtime/train/config.h"

namespace CLI {
class App;
}

namespace sluice::cli {

struct JobArguments {
  std::string file;
  std::vector<std::string> overrides;
};

void add_job_arguments(CLI::App& command, JobArguments& arguments);

// Shows the config's notes on stderr.
train::Config load_job(const JobArguments& arguments);

}  // namespace sluice::cli
