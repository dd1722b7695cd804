#include <CLI/CLI.hpp>
#include <map>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/cli/runtime_library.h"

namespace sluice::cli {

void add_merge(CLI::App& app, Action& action) {
  static const std::map<std::string, Dtype> dtypes = {{"f32", Dtype::f32}, {"bf16", Dtype::bf16}, {"f16", Dtype::f16}};
  const auto options = std::make_shared<train::MergeOptions>();
  const auto dtype = std::make_shared<std::string>("base");
  CLI::App* command = app.add_subcommand("merge", "add an adapter into its base model's weights");
  const auto folder = CLI::Validator(CLI::ExistingDirectory).description("");
  command->add_option("--adapter", options->adapter, "a PEFT LoRA adapter, such as a job's output_dir")
      ->required()
      ->check(folder)
      ->type_name("DIR");
  command->add_option("--out", options->out, "the folder to write: a Hugging Face model")->required()->type_name("DIR");
  command->add_option("--model", options->model, "the base; the one that the adapter names when not given")
      ->check(folder)
      ->type_name("DIR");
  command->add_option("--dtype", *dtype, "of the written weights: bf16, f16, f32, or base: as the base has them")
      ->check(CLI::IsMember({"base", "bf16", "f16", "f32"}).description(""))
      ->type_name("base|bf16|f16|f32")
      ->capture_default_str();
  command->callback([options, dtype, &action] {
    if (const auto found = dtypes.find(*dtype); found != dtypes.end()) options->dtype = found->second;
    action = [options] { return runtime_library().merge(*options); };
  });
}

}  // namespace sluice::cli
