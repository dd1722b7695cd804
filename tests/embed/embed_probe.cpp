// Trains through the public headers, as a program of somebody else's would:
//   embed_probe WHAT JOB.yaml ROWS.txt [KEY=VALUE ...]
// A line of ROWS.txt is a row: "id:label id:label ...". Prints what happened; an exception's text goes to stderr, and
// the exit code is 2 for JobError, 3 for TrainingError, 4 for what this program itself throws.
#include <sluice/trainer.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>

namespace {

using sluice::Trainer;

struct OwnError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::vector<sluice::Batch> read_rows(const char* file) {
  std::vector<sluice::Batch> rows;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    sluice::Batch& row = rows.emplace_back();
    std::istringstream words(line);
    char colon;
    for (int32_t id, label; words >> id >> colon >> label;) {
      row.token_ids.push_back(id);
      row.labels.push_back(label);
    }
  }
  return rows;
}

// Rows in their order, micro_batch_size at a time.
bool next_batch(const std::vector<sluice::Batch>& rows, const sluice::BatchRequest& request, sluice::Batch& batch) {
  const int64_t first = (request.step * request.micro_batches_max + request.micro_batch) * request.documents_max;
  for (int64_t row = first; row < first + request.documents_max && row < std::ssize(rows); ++row) {
    const sluice::Batch& document = rows[static_cast<size_t>(row)];
    batch.document_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
    batch.token_ids.insert(batch.token_ids.end(), document.token_ids.begin(), document.token_ids.end());
    batch.labels.insert(batch.labels.end(), document.labels.begin(), document.labels.end());
  }
  return !batch.token_ids.empty();
}

void say(const sluice::Step& step) {
  std::printf("step %lld loss %.17g\n", static_cast<long long>(step.step), step.loss);
}

template <class Act>
void expect_refusal(const char* what, const Act& act) {
  try {
    act();
    std::printf("%s: not refused\n", what);
  } catch (const sluice::JobError& error) {
    std::printf("%s: %s\n", what, error.what());
  }
}

void misuse(Trainer& trainer) {
  std::vector<float> none;
  expect_refusal("early", [&] { trainer.finish(); });
  expect_refusal("unknown", [&] { trainer.read_parameter("model.norms.weight", none); });
  expect_refusal("room", [&] { trainer.read_parameter("model.norm.weight", none); });
  std::fflush(stdout);
  if (const pid_t child = fork(); child == 0) {
    expect_refusal("fork", [&] { trainer.step(); });
    trainer.close();
    std::fflush(stdout);
    _exit(0);
  } else {
    waitpid(child, nullptr, 0);
  }
  while (!trainer.ended()) trainer.step();
  expect_refusal("late", [&] { trainer.step(); });
  trainer.finish();
  expect_refusal("finished", [&] { trainer.step(); });
  trainer.close();
  expect_refusal("closed", [&] { trainer.step(); });
  trainer.close();
}

// Sums of a trained tensor: before training, after a step, and where a checkpoint of that moment was written.
void read(Trainer& trainer, const std::string& name) {
  const auto show = [&](const char* when) {
    for (const sluice::Parameter& each : trainer.parameters()) {
      if (each.name != name) continue;
      std::vector<float> values(static_cast<size_t>(each.elements()));
      trainer.read_parameter(name, values);
      std::printf("%s %.9g %.9g\n", when, values.front(), values.back());
    }
  };
  show("before");
  for (int i = 0; i < 3; ++i) trainer.step();  // the first one's learning rate is zero
  show("after");
  std::printf("saved %s\n", trainer.save()->c_str());
  trainer.step();
}

int run(const std::string& what, sluice::Job job, const std::vector<sluice::Batch>& rows) {
  sluice::Callbacks callbacks;
  callbacks.step_ended = say;
  if (what != "datasets") {
    job.rows = std::ssize(rows);
    job.row = [&](int64_t row, sluice::Batch& document) { document = rows[static_cast<size_t>(row)]; };
  }
  if (what == "batches") {
    job.row = {};
    job.data = [&](const sluice::BatchRequest& request, sluice::Batch& batch) {
      return next_batch(rows, request, batch);
    };
  }
  if (what == "plan") {
    const sluice::Plan plan = sluice::plan_of(job);
    std::printf("%lld steps of %g s\n%s", static_cast<long long>(plan.steps), plan.step_seconds, plan.text.c_str());
    return 0;
  }
  if (what == "callback throws")
    callbacks.step_ended = [](const sluice::Step& step) {
      if (step.step == 3) throw OwnError("the callback's own error");
    };
  if (what == "data throws")
    job.row = [&, asked = 0](int64_t row, sluice::Batch& document) mutable {
      if (++asked == 20) throw OwnError("the data's own error");
      document = rows[static_cast<size_t>(row)];
    };
  if (what == "labels lack")
    job.row = [&](int64_t row, sluice::Batch& document) {
      document = rows[static_cast<size_t>(row)];
      document.labels.pop_back();
    };
  if (what == "stops") callbacks.should_stop = [asked = 0]() mutable { return ++asked == 3; };
  callbacks.checkpoint_written = [](const sluice::Checkpoint& checkpoint) {
    std::printf("checkpoint %lld\n", static_cast<long long>(checkpoint.step));
  };
  Trainer trainer(job, callbacks);
  if (what == "stops by signal") {
    static Trainer* asked = &trainer;
    std::signal(SIGTERM, [](int) { asked->request_stop(); });
  }
  if (what == "misuse") {
    misuse(trainer);
  } else if (what == "reads") {
    read(trainer, "model.layers.0.mlp.up_proj.weight");
  } else {
    std::printf("%s\n", trainer.run() == sluice::Ended::finished ? "finished" : "stopped");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 1;
  try {
    return run(argv[1], {.file = argv[2], .settings = {argv + 4, argv + argc}}, read_rows(argv[3]));
  } catch (const sluice::JobError& error) {
    std::cerr << error.what() << '\n';
    return 2;
  } catch (const sluice::TrainingError& error) {
    std::cerr << error.what() << '\n';
    return 3;
  } catch (const OwnError& error) {
    std::cerr << error.what() << '\n';
    return 4;
  }
}
