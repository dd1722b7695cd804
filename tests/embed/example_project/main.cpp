// Fine-tunes a model on numbers that this program makes up, keeping weights and optimizer on disk:
//   example MODEL_FOLDER OUTPUT_FOLDER
#include <sluice/trainer.h>
#include <sluice/version.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 3) return 1;
  sluice::Job job{.yaml =
                      "{sequence_len: 32, micro_batch_size: 2, num_epochs: 2, learning_rate: 1e-3, bf16: true, "
                      "offload: {params: disk, optimizer: disk}}",
                  .settings = {std::string("base_model=") + argv[1], std::string("output_dir=") + argv[2]}};
  job.rows = 8;
  job.row = [](int64_t row, sluice::Batch& document) {
    for (int32_t i = 0; i < 24; ++i) document.token_ids.push_back(static_cast<int32_t>(3 + (row + i) % 7));
  };
  sluice::Callbacks callbacks;
  callbacks.step_ended = [](const sluice::Step& step) {
    std::printf("step %lld: loss %.4f, %.0f tokens/s, %.0f%% of bound\n", static_cast<long long>(step.step), step.loss,
                step.tokens_per_second, step.percent_of_bound);
  };
  try {
    sluice::Trainer trainer(job, callbacks);
    std::printf("Sluice %s: %lld steps of %.3f s, as planned\n", sluice::library_version(),
                static_cast<long long>(trainer.plan().steps), trainer.plan().step_seconds);
    trainer.run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
