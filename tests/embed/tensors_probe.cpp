// A program with LibTorch of its own:
//   tensors_probe JOB.yaml [KEY=VALUE ...]
// Trains with a smoothed loss that autograd differentiates, on batches made from tensors where the job has no datasets,
// and reads a tensor in both ways.
#include <ATen/ATen.h>
#include <sluice/tensors.h>

#include <cstdio>

namespace {

at::Tensor smoothed(const at::Tensor& logits_RV, const at::Tensor& labels_R) {
  return at::cross_entropy_loss(logits_RV, labels_R, {}, at::Reduction::Sum, -100, /*label_smoothing=*/0.1);
}

// Two rows of the same numbers, the second one shorter and half of it masked.
bool padded_batch(const sluice::BatchRequest& request, sluice::Batch& batch) {
  if (request.micro_batch == request.micro_batches_max) return false;
  const at::Tensor ids_BT = at::arange(2 * 8, at::kLong).view({2, 8}) % 5 + 3;
  at::Tensor labels_BT = ids_BT.clone();
  labels_BT[1].slice(0, 0, 3).fill_(-100);
  batch = sluice::batch_of(ids_BT, labels_BT, at::tensor({int64_t{8}, int64_t{6}}));
  return true;
}

void compare(sluice::Trainer& trainer, const std::string& name) {
  const at::Tensor copied = sluice::read_tensor(trainer, name), seen = sluice::view_tensor(trainer, name);
  std::printf("%s: %s\n", name.c_str(),
              !seen.defined()                          ? "not in RAM"
              : at::equal(copied, seen.to(at::kFloat)) ? "the same in both ways"
                                                       : "differs");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 1;
  sluice::Job job{.file = argv[1], .settings = {argv + 2, argv + argc}};
  job.loss = sluice::loss_of(smoothed);
  job.loss_name = "smoothed";
  for (const std::string& setting : job.settings)
    if (setting == "datasets=") job.data = padded_batch;
  try {
    sluice::Trainer trainer(job);
    trainer.run();
    compare(trainer, "model.norm.weight");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
