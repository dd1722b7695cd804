#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/cli/outline.h"

namespace sluice::cli {

void add_completion(CLI::App& app, Action& action) {
  const auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "print what completes this command line in a shell");
  command->footer("For this shell alone:  source <(sluice completion bash)");
  command->add_option("shell", *shell, "for which shell")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}).description(""))
      ->type_name("bash|zsh|fish");
  command->callback([shell, &app, &action] {
    action = [shell, &app] {
      const Outline outline = outline_of(app);
      const auto script = *shell == "bash" ? bash_completion : *shell == "zsh" ? zsh_completion : fish_completion;
      std::fputs(script(outline).c_str(), stdout);
      return 0;
    };
  });
}

void add_man(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("man", "print the manual page: sluice man | man -l -");
  command->callback([&app, &action] {
    action = [&app] {
      std::fputs(man_page(outline_of(app)).c_str(), stdout);
      return 0;
    };
  });
}

}  // namespace sluice::cli
