#include <CLI/CLI.hpp>
#include <limits>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/cli/runtime_library.h"

namespace sluice::cli {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// Without what CLI11 would print between an option's name and its help.
template <class Number>
CLI::Validator within(Number min, Number max) {
  return CLI::Range(min, max).description("");
}

CLI::Validator folder() { return CLI::Validator(CLI::ExistingDirectory).description(""); }

void add_sampling(CLI::App& command, train::GenerateOptions& options) {
  command.add_option("--max-new-tokens", options.max_new_tokens, "how many tokens at most")
      ->check(within(int64_t{1}, kMax))
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--temperature", options.temperature, "above 0: sampled; 0: the likeliest token each time")
      ->check(within(0.0, 1e6))
      ->type_name("T")
      ->capture_default_str();
  command.add_option("--top-p", options.top_p, "sample among the likeliest tokens that hold this share")
      ->check(within(std::numeric_limits<double>::min(), 1.0))
      ->type_name("P")
      ->capture_default_str();
  command.add_option("--top-k", options.top_k, "sample among so many likeliest tokens; 0: all")
      ->check(within(int64_t{0}, kMax))
      ->type_name("K")
      ->capture_default_str();
  command.add_option("--seed", options.seed, "of the samples")
      ->check(within(int64_t{0}, kMax))
      ->type_name("N")
      ->capture_default_str();
}

}  // namespace

void add_generate(CLI::App& app, Action& action) {
  const auto options = std::make_shared<train::GenerateOptions>();
  const auto raw_prompt = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("generate", "let a model answer, from a folder or a base model and an adapter");
  command->add_option("--model", options->model, "a Hugging Face folder, such as a job's output_dir")
      ->required()
      ->check(folder())
      ->type_name("DIR");
  command->add_option("--adapter", options->adapter, "a PEFT adapter for it")->check(folder())->type_name("DIR");
  CLI::Option_group* prompts = command->add_option_group("prompt", "one of these");
  CLI::Option* chat =
      prompts->add_option("--prompt", options->prompt, "what the user says; the model's chat template applies")
          ->type_name("TEXT");
  prompts->add_option("--raw-prompt", *raw_prompt, "a text to go on with, as it stands")->type_name("TEXT");
  prompts->require_option(1);
  command->add_option("--system", options->system, "the system message before --prompt")
      ->needs(chat)
      ->type_name("TEXT");
  add_sampling(*command, *options);
  command
      ->add_option("--logits", options->logits,
                   "write the prompt's token ids and fp32 logits to this safetensors file instead of answering")
      ->type_name("FILE");
  command->callback([options, raw_prompt, chat, &action] {
    options->raw = chat->count() == 0;
    if (options->raw) options->prompt = *raw_prompt;
    action = [options] { return runtime_library().generate(*options); };
  });
}

}  // namespace sluice::cli
