// The commands of `sluice`, a file each: every one adds its options to the parser and leaves what to run in `action`.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace sluice::cli {

using Action = std::function<int()>;  // returns the exit code

void add_train(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_probe(CLI::App& app, Action& action);
void add_profile(CLI::App& app, Action& action);
void add_preprocess(CLI::App& app, Action& action);
void add_generate(CLI::App& app, Action& action);
void add_merge(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_fsck(CLI::App& app, Action& action);
void add_completion(CLI::App& app, Action& action);
void add_man(CLI::App& app, Action& action);

}  // namespace sluice::cli
