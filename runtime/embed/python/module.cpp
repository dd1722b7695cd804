// The Python module `sluice._sluice`: the public C++ headers, with numbers as NumPy arrays and without the GIL wherever
// the runtime works. sluice/__init__.py is what people import.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <sluice/trainer.h>
#include <sluice/version.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <memory>
#include <utility>

namespace nb = nanobind;

namespace {

using sluice::Batch;

// With the count of arrays that lie in its memory: it is not closed below them.
struct Trainer : sluice::Trainer {
  using sluice::Trainer::Trainer;
  std::shared_ptr<std::atomic<int64_t>> views = std::make_shared<std::atomic<int64_t>>(0);
};
using Numbers = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void append(const nb::handle& array, std::vector<int32_t>& to) {
  if (array.is_none()) return;
  const Numbers numbers = nb::cast<Numbers>(array);
  to.assign(numbers.data(), numbers.data() + numbers.size());
}

// (token ids, labels, document starts), each an int32 array or None: what sluice/_data.py makes of what it is given.
void fill(const nb::object& given, Batch& batch) {
  const auto parts = nb::cast<nb::tuple>(given);
  append(parts[0], batch.token_ids);
  append(parts[1], batch.labels);
  append(parts[2], batch.document_starts);
}

// A Python object that C++ threads drop: it goes with the GIL held.
std::shared_ptr<nb::object> shared(nb::object object) {
  return {new nb::object(std::move(object)), [](nb::object* held) {
            nb::gil_scoped_acquire gil;
            delete held;
          }};
}

sluice::DataSource data_source(nb::object batch_of) {
  return [held = shared(std::move(batch_of))](const sluice::BatchRequest& request, Batch& batch) {
    nb::gil_scoped_acquire gil;
    const nb::object given =
        (*held)(request.step, request.micro_batch, request.documents_max, request.micro_batches_max);
    if (given.is_none()) return false;
    fill(given, batch);
    return true;
  };
}

sluice::RowSource row_source(nb::object row_of) {
  return [held = shared(std::move(row_of))](int64_t row, Batch& document) {
    nb::gil_scoped_acquire gil;
    fill((*held)(row), document);
  };
}

// Numbers where they lie, for the length of a call.
template <class Number>
nb::object seen(std::span<Number> numbers, std::vector<size_t> shape) {
  return nb::cast(nb::ndarray<nb::numpy, Number>(numbers.data(), shape.size(), shape.data(), nb::handle()),
                  nb::rv_policy::reference);
}

// Logits as a torch tensor where they are, for the length of a call. torch takes them to be ready on its current
// stream.
nb::object tensor_of(const sluice::LossChunk& chunk) {
  const std::array<size_t, 2> shape = {static_cast<size_t>(chunk.rows), static_cast<size_t>(chunk.vocabulary)};
  const bool on_gpu = chunk.gpu >= 0;
  return nb::cast(nb::ndarray<nb::pytorch, float>(
                      chunk.logits.data(), shape.size(), shape.data(), nb::handle(), nullptr, nb::dtype<float>(),
                      on_gpu ? nb::device::cuda::value : nb::device::cpu::value, on_gpu ? chunk.gpu : 0),
                  nb::rv_policy::reference);
}

// `sum_of`: what sluice/_loss.py makes of a program's loss. It gives the sum, and writes gradients over the logits.
sluice::Loss loss_of(nb::object sum_of) {
  return [held = shared(std::move(sum_of))](const sluice::LossChunk& chunk) {
    nb::gil_scoped_acquire gil;
    const auto rows = static_cast<size_t>(chunk.rows);
    return nb::cast<double>((*held)(tensor_of(chunk), seen(chunk.labels, {rows}), seen(chunk.positions, {rows}),
                                    seen(chunk.token_ids, {chunk.token_ids.size()}), chunk.step, chunk.micro_batch,
                                    chunk.wants_gradient));
  };
}

// While it lives, whether Ctrl-C has come: Python's own handler, which is called as ever, tells that to the main thread
// alone, and a full drive is waited for on others. Made and ended with the GIL held; any number at a time.
class NotedInterrupt {
 public:
  NotedInterrupt() {
    if (living_++ > 0) return;
    came_ = false;
    sigaction(SIGINT, nullptr, &before_);
    const bool handled = before_.sa_handler != SIG_DFL && before_.sa_handler != SIG_IGN;
    if (!handled) return;
    struct sigaction noting = before_;
    noting.sa_flags |= SA_SIGINFO;
    noting.sa_sigaction = note;
    sigaction(SIGINT, &noting, nullptr);
  }
  ~NotedInterrupt() {
    if (--living_ > 0) return;
    struct sigaction now {};
    sigaction(SIGINT, nullptr, &now);
    // A callback may have set another.
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == note) sigaction(SIGINT, &before_, nullptr);
  }
  NotedInterrupt(const NotedInterrupt&) = delete;
  NotedInterrupt& operator=(const NotedInterrupt&) = delete;

  static bool came() { return came_; }

 private:
  static void note(int signal, siginfo_t* about, void* context) {
    came_ = true;
    if ((before_.sa_flags & SA_SIGINFO) != 0)
      before_.sa_sigaction(signal, about, context);
    else
      before_.sa_handler(signal);
  }

  static inline int living_ = 0;
  static inline std::atomic<bool> came_ = false;
  static inline struct sigaction before_ {};
};

// A call of the runtime, without the GIL. Where Ctrl-C ended it while it waited for room, that is what comes out.
template <class Act>
auto working(const Act& act) -> decltype(act()) {
  const NotedInterrupt noted;
  try {
    nb::gil_scoped_release no_gil;
    return act();
  } catch (const sluice::TrainingError&) {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    throw;
  }
}
template <class Returned, class... Given>
auto working(Returned (sluice::Trainer::*call)(Given...)) {
  return [call](Trainer& trainer, Given... given) { return working([&] { return (trainer.*call)(given...); }); };
}

// Keys as sluice/__init__.py's _job gives them.
sluice::Job job_of(const nb::dict& given) {
  sluice::Job job{.file = nb::cast<std::filesystem::path>(given["file"]),
                  .yaml = nb::cast<std::string>(given["yaml"]),
                  .settings = nb::cast<std::vector<std::string>>(given["settings"]),
                  .data_name = nb::cast<std::string>(given["data_name"]),
                  .loss_name = nb::cast<std::string>(given["loss_name"])};
  const auto object = [&](const char* key) { return nb::object(given[key]); };
  if (!object("batch_of").is_none()) job.data = data_source(object("batch_of"));
  if (!object("row_of").is_none()) {
    job.rows = nb::cast<int64_t>(given["rows"]);
    job.row = row_source(object("row_of"));
  }
  if (!object("sum_of").is_none()) job.loss = loss_of(object("sum_of"));
  job.loss_place = sluice::LossPlace::gpu;
  return job;
}

template <class Told>
std::function<void(const Told&)> told(const nb::object& callback) {
  if (callback.is_none()) return {};
  return [held = shared(callback)](const Told& what) {
    nb::gil_scoped_acquire gil;
    (*held)(what);
  };
}

sluice::Callbacks callbacks_of(const nb::object& step, const nb::object& checkpoint, const nb::object& validation,
                               const nb::object& should_stop) {
  sluice::Callbacks callbacks;
  callbacks.step_ended = told<sluice::Step>(step);
  callbacks.checkpoint_written = told<sluice::Checkpoint>(checkpoint);
  callbacks.validated = told<sluice::Validated>(validation);
  // Ctrl-C is Python's: its handler has noted it, and raises here.
  callbacks.should_stop = [held = shared(should_stop)] {
    nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    return !held->is_none() && nb::cast<bool>((*held)());
  };
  callbacks.ends_waiting = [] { return NotedInterrupt::came(); };
  return callbacks;
}

nb::object shape_of(const sluice::Parameter& parameter) {
  nb::list sizes;
  for (const int64_t size : parameter.shape) sizes.append(size);
  return nb::tuple(sizes);
}

// A fresh array that NumPy and, by DLPack, torch use as it is.
nb::object read_parameter(Trainer& trainer, const std::string& name) {
  const std::vector<sluice::Parameter> all = trainer.parameters();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const sluice::Parameter& each) { return each.name == name; });
  std::vector<size_t> shape = {0};
  if (found != all.end()) shape.assign(found->shape.begin(), found->shape.end());
  const auto elements = static_cast<size_t>(found == all.end() ? 0 : found->elements());
  auto values = std::make_unique<float[]>(std::max<size_t>(elements, 1));
  working([&] { trainer.read_parameter(name, {values.get(), elements}); });
  float* data = values.release();
  nb::capsule owner(data, [](void* held) noexcept { delete[] static_cast<float*>(held); });
  return nb::cast(nb::ndarray<nb::numpy, float>(data, shape.size(), shape.data(), owner));
}

void write_parameter(Trainer& trainer, const std::string& name,
                     nb::ndarray<const float, nb::c_contig, nb::device::cpu> values) {
  working([&] { trainer.write_parameter(name, {values.data(), values.size()}); });
}

nb::dlpack::dtype dtype_of(const std::string& name) {
  if (name == "f32") return nb::dtype<float>();
  const auto code = name == "bf16" ? nb::dlpack::dtype_code::Bfloat : nb::dlpack::dtype_code::Float;
  return {static_cast<uint8_t>(code), 16, 1};
}

// The runtime's own memory, by DLPack. It holds the Trainer.
nb::object view_parameter(const nb::object& self, const std::string& name) {
  Trainer& trainer = nb::cast<Trainer&>(self);
  const std::optional<sluice::ParameterView> view = working([&] { return trainer.view_parameter(name); });
  if (!view) return nb::none();
  std::vector<size_t> shape;
  for (const sluice::Parameter& each : trainer.parameters())
    if (each.name == name) shape.assign(each.shape.begin(), each.shape.end());
  struct Held {
    nb::object trainer;
    std::shared_ptr<std::atomic<int64_t>> views;
  };
  auto held = std::make_unique<Held>(Held{self, trainer.views});
  ++*held->views;
  nb::capsule owner(held.release(), [](void* pointer) noexcept {
    nb::gil_scoped_acquire gil;
    Held* ended = static_cast<Held*>(pointer);
    --*ended->views;
    delete ended;
  });
  return nb::cast(
      nb::ndarray<>(const_cast<void*>(view->data), shape.size(), shape.data(), owner, nullptr, dtype_of(view->dtype)));
}

void close_if_unseen(Trainer& trainer) {
  if (*trainer.views > 0)
    throw sluice::JobError(
        "close() while tensors lie in the Trainer's memory\n  fix: drop what view_parameter gave, first");
  nb::gil_scoped_release no_gil;
  trainer.close();
}

}  // namespace

NB_MODULE(_sluice, m) {
  // A script's globals, which its callbacks refer to, end after the module: what they hold is no leak.
  nb::set_leak_warnings(false);
  m.attr("__version__") = sluice::library_version();
  nb::exception<sluice::JobError>(m, "JobError", PyExc_ValueError);
  nb::exception<sluice::TrainingError>(m, "TrainingError", PyExc_RuntimeError);

  nb::class_<sluice::Step>(m, "Step")
      .def_ro("step", &sluice::Step::step)
      .def_ro("loss", &sluice::Step::loss)
      .def_ro("grad_norm", &sluice::Step::grad_norm)
      .def_ro("learning_rate", &sluice::Step::learning_rate)
      .def_ro("tokens", &sluice::Step::tokens)
      .def_ro("step_seconds", &sluice::Step::step_seconds)
      .def_ro("tokens_per_second", &sluice::Step::tokens_per_second)
      .def_ro("bound_seconds", &sluice::Step::bound_seconds)
      .def_ro("percent_of_bound", &sluice::Step::percent_of_bound)
      .def_ro("binding_lane", &sluice::Step::binding_lane)
      .def_ro("device_peak_bytes", &sluice::Step::device_peak_bytes)
      .def_ro("host_peak_bytes", &sluice::Step::host_peak_bytes)
      .def_ro("disk_read_bytes", &sluice::Step::disk_read_bytes)
      .def_ro("disk_write_bytes", &sluice::Step::disk_write_bytes)
      .def_ro("skipped", &sluice::Step::skipped);
  nb::class_<sluice::Checkpoint>(m, "Checkpoint")
      .def_ro("folder", &sluice::Checkpoint::folder)
      .def_ro("step", &sluice::Checkpoint::step);
  nb::class_<sluice::Validated>(m, "Validated")
      .def_ro("loss", &sluice::Validated::loss)
      .def_ro("step", &sluice::Validated::step);
  nb::class_<sluice::Plan>(m, "Plan")
      .def_ro("steps", &sluice::Plan::steps)
      .def_ro("step_seconds", &sluice::Plan::step_seconds)
      .def_ro("bound_seconds", &sluice::Plan::bound_seconds)
      .def_ro("binding_lane", &sluice::Plan::binding_lane)
      .def_ro("percent_of_bound", &sluice::Plan::percent_of_bound)
      .def_ro("tokens_per_second", &sluice::Plan::tokens_per_second)
      .def_ro("seconds", &sluice::Plan::seconds)
      .def_ro("device_peak_bytes", &sluice::Plan::device_peak_bytes)
      .def_ro("host_peak_bytes", &sluice::Plan::host_peak_bytes)
      .def_ro("disk_peak_bytes", &sluice::Plan::disk_peak_bytes)
      .def_ro("disk_read_bytes", &sluice::Plan::disk_read_bytes)
      .def_ro("disk_write_bytes", &sluice::Plan::disk_write_bytes)
      .def_ro("text", &sluice::Plan::text)
      .def_ro("json", &sluice::Plan::json)
      .def("__str__", [](const sluice::Plan& plan) { return plan.text; });
  nb::class_<sluice::Parameter>(m, "Parameter")
      .def_ro("name", &sluice::Parameter::name)
      .def_prop_ro("shape", &shape_of)
      .def_ro("trained", &sluice::Parameter::trained);

  m.def(
      "plan_of",
      [](const nb::dict& given) {
        const sluice::Job job = job_of(given);
        nb::gil_scoped_release no_gil;
        return sluice::plan_of(job);
      },
      nb::arg("job"));

  nb::class_<Trainer>(m, "Trainer")
      .def(
          "__init__",
          [](Trainer* self, const nb::dict& given, const nb::object& step, const nb::object& checkpoint,
             const nb::object& validation, const nb::object& should_stop) {
            const sluice::Job job = job_of(given);
            sluice::Callbacks callbacks = callbacks_of(step, checkpoint, validation, should_stop);
            working([&] { new (self) Trainer(job, std::move(callbacks)); });
          },
          nb::arg("job"), nb::arg("step").none(), nb::arg("checkpoint").none(), nb::arg("validation").none(),
          nb::arg("should_stop").none())
      .def_prop_ro("plan", [](const Trainer& trainer) { return trainer.plan(); })
      .def_prop_ro("output_dir", [](const Trainer& trainer) { return trainer.output_dir(); })
      .def_prop_ro("steps_done", &Trainer::steps_done)
      .def_prop_ro("steps_total", &Trainer::steps_total)
      .def("run", [](Trainer& trainer) { return working([&] { return trainer.run() == sluice::Ended::finished; }); })
      .def("step", working(&sluice::Trainer::step))
      .def("evaluate", [](Trainer& trainer) { return working([&] { return trainer.evaluate(); }); })
      .def("evaluate_data",
           [](Trainer& trainer, nb::object batch_of) {
             const sluice::DataSource data = data_source(std::move(batch_of));
             return working([&] { return trainer.evaluate(data); });
           })
      .def("save", working(&sluice::Trainer::save))
      .def("finish", working(&sluice::Trainer::finish))
      .def("stop", working(&sluice::Trainer::stop))
      .def("request_stop", &Trainer::request_stop)
      .def("parameters", &Trainer::parameters)
      .def("read_parameter", &read_parameter)
      .def("write_parameter", &write_parameter)
      .def("view_parameter",
           [](nb::handle self, const std::string& name) { return view_parameter(nb::borrow(self), name); })
      .def("close", &close_if_unseen);
}
