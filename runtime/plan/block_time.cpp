#include "runtime/plan/block_time.h"

#include <string>

#include "runtime/core/result.h"

namespace sluice::plan {
namespace {

template <class Model>
const Model& model_of(const Machine& machine, const std::map<Dtype, Model>& models, Dtype dtype, const char* what) {
  if (const auto found = models.find(dtype); found != models.end()) return found->second;
  // GPUs multiply both kinds of halves alike, and machine files of before fp16 know of one.
  if (const auto found = models.find(Dtype::bf16); dtype == Dtype::f16 && found != models.end()) return found->second;
  const std::string type(name_of(dtype));
  throw SetupError(machine.name + " says nothing of " + what + " in " + type,
                   "add '" + type + "' to that block of its machine file, or train in another type");
}

}  // namespace

Microseconds time_of(const Machine& machine, Dtype dtype, const PassWork& work) {
  Microseconds time{work.kernel_bytes / machine.device_memory.count * 1e6};
  if (!work.products.empty()) {
    const GemmModel& gemm = model_of(machine, machine.gemm, dtype, "matrix products");
    for (const ProductWork& product : work.products)
      time.count += gemm_time(gemm, product.m, product.n, product.k).count * product.count;
  }
  const AttentionWork& a = work.attention;
  if (a.forward_documents > 0 || a.backward_documents > 0) {
    const AttentionModel& model = model_of(machine, machine.attention, dtype, "attention");
    time.count += attention_forward_time(model, a.heads, a.head_dim, a.length).count * a.forward_documents +
                  attention_backward_time(model, a.heads, a.head_dim, a.length).count * a.backward_documents;
  }
  return time;
}

}  // namespace sluice::plan
