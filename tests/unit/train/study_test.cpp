// A study's YAML: what its grid becomes, and the whole message where it is wrong. And what is kept of its results.
#include "runtime/train/study.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/train/study_results.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

class StudyTest : public JobFolder {
 protected:
  void SetUp() override {
    JobFolder::SetUp();
    write("job.yaml", minimal("logging_steps: 2\n"));
  }

  // Its head in three lines; `grid` begins in line 4.
  static Study read(const std::string& grid, const std::vector<std::string>& overrides = {}) {
    write("study.yaml", "title: A study\nbase: job.yaml\noutput_dir: out\n" + grid);
    return read_study("study.yaml", overrides);
  }
  static std::string refusal(const std::string& grid, const std::vector<std::string>& overrides = {}) {
    try {
      read(grid, overrides);
    } catch (const SetupError& error) {
      return error.what();
    }
    return "accepted";
  }
  static std::vector<std::string> names(const Study& study) {
    std::vector<std::string> all;
    for (const StudyCell& cell : study.cells) all.push_back(cell.name());
    return all;
  }
};

TEST_F(StudyTest, TheGridIsEveryCombinationTheLastAxisFastest) {
  const Study study = read("grid:\n  micro_batch_size: [1, 2]\n  sequence_len: [512, 1024]\n");
  EXPECT_EQ(names(study), (std::vector<std::string>{
                              "micro_batch_size=1, sequence_len=512", "micro_batch_size=1, sequence_len=1024",
                              "micro_batch_size=2, sequence_len=512", "micro_batch_size=2, sequence_len=1024"}));
  const Config last = load_config(study.base, study.cells.back().overrides());
  EXPECT_EQ(last.micro_batch_size, 2);
  EXPECT_EQ(last.sequence_len, 1024);
  EXPECT_EQ(study.steps, 5);
  EXPECT_EQ(study.title, "A study");
}

TEST_F(StudyTest, ANamedAxisSetsSeveralKeysAndTheSettingsOfAllGoBelowIt) {
  const Study study = read(
      "settings: {bf16: true, offload: {max_cpu: 4GiB}}\n"
      "grid:\n"
      "  precision:\n"
      "    half: {bf16: false, fp16: true, offload: {max_cpu: 3GiB, params: host}}\n"
      "    brain: {}\n");
  EXPECT_EQ(names(study), (std::vector<std::string>{"precision=half", "precision=brain"}));
  const Config half = load_config(study.base, study.cells[0].overrides());
  EXPECT_EQ(half.compute_dtype, Dtype::f16);
  EXPECT_EQ(half.offload.max_cpu, GiB(3));
  EXPECT_EQ(half.offload.params, Residence::host);
  const Config brain = load_config(study.base, study.cells[1].overrides());
  EXPECT_EQ(brain.compute_dtype, Dtype::bf16);
  EXPECT_EQ(brain.offload.max_cpu, GiB(4));
}

TEST_F(StudyTest, TheCommandLineGoesOverTheSettingsOfAll) {
  const Study study = read("settings: {seed: 1}\ngrid: {offload.max_cpu: [4GiB]}\n", {"seed=7", "cutoff_len=64"});
  const Config config = load_config(study.base, study.cells[0].overrides());
  EXPECT_EQ(config.seed, 7u);
  EXPECT_EQ(config.sequence_len, 64);
  EXPECT_EQ(config.offload.max_cpu, GiB(4));
}

TEST_F(StudyTest, OutputDirOfTheCommandLineIsTheStudys) {
  const Study study = read("grid: {seed: [1]}\n", {"output_dir=elsewhere"});
  EXPECT_EQ(study.output_dir, "elsewhere");
  EXPECT_EQ(load_config(study.base, study.cells[0].overrides()).output_dir, load_config(study.base, {}).output_dir);
}

TEST_F(StudyTest, TextsOfAllKindsReachTheJobAsTheyStand) {
  const Study study = read("grid:\n  output_dir: ['a: #b', \"c\\\"d\"]\n  lora_target_modules: [[q_proj, v_proj]]\n",
                           {"adapter=lora", "lora_r=8"});
  EXPECT_EQ(load_config(study.base, study.cells[0].overrides()).output_dir, "a: #b");
  EXPECT_EQ(load_config(study.base, study.cells[1].overrides()).output_dir, "c\"d");
  EXPECT_EQ(load_config(study.base, study.cells[1].overrides()).lora_target_modules,
            (std::vector<std::string>{"q_proj", "v_proj"}));
}

TEST_F(StudyTest, WrongKeysAreNamedWithTheirPlaceAndTheNearest) {
  EXPECT_EQ(refusal("grdi: {}\n"), "study.yaml:4:1: unknown key 'grdi'\n  fix: did you mean 'grid'?");
  EXPECT_EQ(refusal("grid:\n  micro_batch_siz: [1, 2]\n"),
            "study.yaml:5:3: unknown key 'micro_batch_siz'\n  fix: did you mean 'micro_batch_size'?");
  EXPECT_EQ(refusal("grid:\n  precision:\n    half: {fp61: true}\n"),
            "study.yaml:6:12: unknown key 'fp61'\n  fix: did you mean 'fp16'?");
  EXPECT_EQ(refusal("settings:\n  offload: {max_cpus: 4GiB}\ngrid: {seed: [1]}\n"),
            "study.yaml:5:13: unknown key 'offload.max_cpus'\n  fix: did you mean 'max_cpu'?");
  EXPECT_EQ(refusal("grid: {offload.parms: [host]}\n"),
            "study.yaml:4:8: unknown key 'offload.parms'\n  fix: did you mean 'params'?");
}

TEST_F(StudyTest, OffloadIsABlockOfKeysWhereverItStands) {
  const std::string fix = "\n  fix: for example: offload: {params: disk}, or in a grid: offload.params: [host, disk]";
  EXPECT_EQ(refusal("settings: {offload: disk}\ngrid: {seed: [1]}\n"),
            "study.yaml:4:12: offload must be a block of keys, not 'disk'" + fix);
  EXPECT_EQ(refusal("grid: {offload: [host, disk]}\n"),
            "study.yaml:4:8: offload must be a block of keys, not a list" + fix);
  EXPECT_EQ(read("settings: {offload: }\ngrid: {seed: [1]}\n").cells.at(0).settings.size(), 1u);
}

TEST_F(StudyTest, KeysOfOtherTrainersMeanWhatTheyMeanInAJob) {
  const Study study = read("settings: {gradient_checkpointing: true}\ngrid: {save_strategy: [steps]}\n");
  EXPECT_EQ(load_config(study.base, study.cells[0].overrides()).notes.size(), 1u);
  EXPECT_EQ(refusal("grid: {save_strategy: [steps, epoch]}\n"),
            "study.yaml:4:31: save_strategy: 'epoch' is not supported\n  fix: use save_steps; the last step is always "
            "saved");
  EXPECT_TRUE(refusal("settings: {offload: {gradient_checkpointing: true}}\ngrid: {seed: [1]}\n")
                  .starts_with("study.yaml:4:22: unknown key 'offload.gradient_checkpointing'"));
}

TEST_F(StudyTest, WhatIsWrongWithTheBaseJobIsSaidOfItAndWhatACellMakesOfItOfTheCell) {
  write("job.yaml", minimal("micro_batch_size: two\n"));
  EXPECT_TRUE(refusal("grid: {seed: [1, 2]}\n").starts_with("job.yaml:5:19: micro_batch_size must be"));
  EXPECT_EQ(refusal("grid: {micro_batch_size: [1, 2]}\n"), "accepted");
  write("job.yaml", minimal("fp16: true\n"));
  EXPECT_EQ(refusal("grid: {bf16: [false, true]}\n"),
            "study.yaml:4:22: job.yaml:5:1: fp16: true, and bf16: true at command line: a job computes in one of "
            "them\n  fix: keep bf16: true, which needs no loss scale, or fp16: true alone");
  EXPECT_EQ(refusal("grid: {learning_rate: [1e-5, ]}\n"), "accepted") << "a comma at the end is no value";
  EXPECT_EQ(refusal("grid: {learning_rate: [1e-5, ~]}\n"),
            "study.yaml:4:30: job.yaml: learning_rate is missing\n  fix: add, for example: learning_rate: 2e-5");
}

TEST_F(StudyTest, WhatTheFileLeavesOutIsNamedOrHasItsDefault) {
  std::filesystem::create_directory("of_mine");
  const auto said = [](const std::string& text) {
    write("of_mine/sizes.yaml", text);
    try {
      const Study study = read_study("of_mine/sizes.yaml", {});
      return study.title + " of " + study.base.string() + ", " + std::to_string(study.steps) + " steps";
    } catch (const SetupError& error) {
      return std::string(error.what());
    }
  };
  const std::string job = (folder_ / "job.yaml").string();
  EXPECT_EQ(said("base: " + job + "\noutput_dir: out\ngrid: {seed: [1]}\n"), "sizes of " + job + ", 5 steps");
  EXPECT_EQ(said("base: ../job.yaml\noutput_dir: out\nsteps: 7\ngrid: {seed: [1]}\n"),
            "sizes of of_mine/../job.yaml, 7 steps");
  EXPECT_EQ(said("output_dir: out\ngrid: {seed: [1]}\n"),
            "of_mine/sizes.yaml: base is missing\n  fix: add, for example: base: job.yaml");
  EXPECT_EQ(said("base: job.yaml\ngrid: {seed: [1]}\n"),
            "of_mine/sizes.yaml: output_dir is missing\n  fix: add, for example: output_dir: out/study");
  EXPECT_EQ(said("base: [job.yaml]\noutput_dir: out\ngrid: {seed: [1]}\n"),
            "of_mine/sizes.yaml:1:1: base must be a text, not a list");
  EXPECT_EQ(said("base: ../job.yaml\noutput_dir: out\nsteps: 0\ngrid: {seed: [1]}\n"),
            "of_mine/sizes.yaml:3:8: steps must be a whole number from 1, not '0'\n  fix: for example: steps: 5");
  EXPECT_EQ(
      said("base: ../job.yaml\ncolour: blue\n"),
      "of_mine/sizes.yaml:2:1: unknown key 'colour'\n  fix: it must be a key of a study: title, base, output_dir, "
      "steps, grid, settings, published");
}

TEST_F(StudyTest, ValuesThatMakeNoJobAreRefusedBeforeAnythingRuns) {
  EXPECT_EQ(refusal("grid:\n  seed: [1]\n  micro_batch_size: [1, two]\n"),
            "study.yaml:6:25: micro_batch_size must be a whole number from 1 to 1073741824, not 'two'\n  fix: for "
            "example: micro_batch_size: 2");
  const std::string of_all = refusal("settings: {micro_batch_size: two}\ngrid: {seed: [1, 2]}\n");
  EXPECT_TRUE(of_all.starts_with("study.yaml, settings: micro_batch_size must")) << of_all;
  const std::string of_command = refusal("grid: {seed: [1, 2]}\n", {"micro_batch_size=two"});
  EXPECT_TRUE(of_command.starts_with("command line: micro_batch_size must")) << of_command;
  const std::string together = refusal("grid:\n  bf16: [false, true]\n  fp16: [false, true]\n");
  EXPECT_TRUE(together.starts_with("study.yaml, bf16=true, fp16=true: ")) << together;
}

TEST_F(StudyTest, WhatIsNoTextListOrBlockIsRefusedWithItsPlace) {
  EXPECT_TRUE(refusal("settings: [1]\ngrid: {seed: [1]}\n")
                  .starts_with("study.yaml:4:1: settings must be a block of a job's keys, not a list"));
  EXPECT_TRUE(refusal("grid: {}\n").starts_with("study.yaml:4:1: grid must be a block of keys with lists of values"));
  EXPECT_TRUE(refusal("grid: {seed: []}\n").starts_with("study.yaml:4:8: seed must be a list of values"));
  EXPECT_EQ(refusal("grid: {seed: [1], precision: {}}\n"),
            "study.yaml:4:19: precision has no value: there is no cell\n  fix: give it at least one, for example: "
            "precision: {brain: {bf16: true}}");
  EXPECT_TRUE(refusal("grid: {precision: {half: true}}\n")
                  .starts_with("study.yaml:4:20: half must be a block of a job's keys, not 'true'"));
  EXPECT_EQ(refusal("grid: {seed: [1]}\n", {"bf16"}),
            "command line: 'bf16' is not of the form key=value\n  fix: for example: bf16=true");
  const std::string published = "grid: {seed: [1]}\npublished: ";
  EXPECT_TRUE(refusal(published + "{}\n").starts_with("study.yaml:5:1: published must be a list"));
  EXPECT_EQ(
      refusal(published + "[{what: a}]\n"),
      "study.yaml:5:13: a published figure needs `what` and `source`\n  fix: say what it is and who published it");
  EXPECT_TRUE(refusal(published + "[{source: a}]\n").find("needs `what` and `source`") != std::string::npos);
  EXPECT_EQ(refusal(published + "[{what: [a]}]\n"), "study.yaml:5:14: what must be a text, not a list");
}

TEST_F(StudyTest, AGridOfTooManyCellsIsRefused) {
  std::string values = "1";
  for (int i = 2; i <= 101; ++i) values += ", " + std::to_string(i);
  EXPECT_EQ(refusal("grid:\n  seed: [" + values + "]\n  max_steps: [" + values + "]\n"),
            "study.yaml: the grid has more than 10000 cells\n  fix: give fewer values");
}

TEST_F(StudyTest, AValueThatIsNothingOrABlockReachesTheJobAsItIs) {
  EXPECT_EQ(names(read("grid: {save_total_limit: [, 3]}\n")),
            (std::vector<std::string>{"save_total_limit=none", "save_total_limit=3"}));
  const std::string block = refusal("grid: {seed: [{a: 1, b: 2}]}\n");
  EXPECT_TRUE(block.starts_with("study.yaml:4:15: seed must be a whole number")) << block;
}

TEST_F(StudyTest, AFileThatCannotBeReadIsNamed) {
  for (const char* file : {"gone.yaml", "."}) {
    try {
      read_study(file, {});
      FAIL() << file;
    } catch (const SetupError& error) {
      EXPECT_EQ(error.error().message, std::string(file) + ": cannot be read");
    }
  }
}

TEST_F(StudyTest, TextThatIsNotUtf8IsRefusedWithItsPlace) {
  EXPECT_EQ(refusal("grid:\n  seed: [1, \x8c]\n"),
            "study.yaml:5:13: this is not UTF-8\n  fix: write the file in UTF-8");
  EXPECT_EQ(refusal("grid: {\x8c: [1]}\n"), "study.yaml:4:8: this is not UTF-8\n  fix: write the file in UTF-8");
}

TEST_F(StudyTest, GridsThatAreNoneAreRefused) {
  EXPECT_TRUE(refusal("").starts_with("study.yaml: grid is missing"));
  EXPECT_TRUE(refusal("grid: [1]\n").starts_with("study.yaml:4:1: grid must be a block")) << refusal("grid: [1]\n");
  EXPECT_TRUE(refusal("grid: {seed: 3}\n").starts_with("study.yaml:4:8: seed must be a list"));
  EXPECT_TRUE(refusal("grid: {seed: [1], also: {a: {seed: 2}}}\n").find("seed is varied by seed too") !=
              std::string::npos);
  EXPECT_TRUE(refusal("grid: {seed: [1], seed: [2]}\n").find("'seed' is given twice") != std::string::npos);
  EXPECT_TRUE(refusal("grid: {seed: [1]}\n", {"sed=1"}).find("unknown key 'sed'") != std::string::npos);
}

TEST_F(StudyTest, PublishedFiguresBelongToValuesOfTheGrid) {
  const std::string grid = "grid: {seed: [1, 2]}\npublished:\n  - {what: a, source: b, tokens_per_second: 628, ";
  const Study study = read(grid + "where: {seed: 2}}\n");
  EXPECT_EQ(study.published.at(0).where.at("seed"), "2");
  EXPECT_DOUBLE_EQ(study.published.at(0).tokens_per_second, 628);
  EXPECT_EQ(refusal(grid + "where: {sed: 2}}\n"),
            "study.yaml:6:58: the grid has no 'sed'\n  fix: did you mean 'seed'?");
  EXPECT_TRUE(refusal(grid + "where: {seed: 3}}\n").find("seed has no '3' in the grid") != std::string::npos);
  EXPECT_EQ(refusal(grid + "where: 2}\n"),
            "study.yaml:6:50: where must be a block of the grid's keys, not '2'\n  fix: for example: where: {seed: 1}");
  EXPECT_TRUE(read(grid + "where: }\n").published.at(0).where.empty());
  EXPECT_EQ(refusal("grid: {seed: [1]}\npublished: [{what: a, source: b, tokens_per_second: -1}]\n"),
            "study.yaml:5:53: tokens_per_second must be a number from 0 to 1e+09, not '-1'\n  fix: for example: "
            "tokens_per_second: 628");
  EXPECT_EQ(refusal(grid + "wher: {}}\n"), "study.yaml:6:50: unknown key 'wher'\n  fix: did you mean 'where'?");
}

TEST_F(StudyTest, AJobIsNoStudy) {
  read("grid: {seed: [1]}\n");
  EXPECT_TRUE(is_study("study.yaml"));
  EXPECT_FALSE(is_study("job.yaml"));
}

// --- results --------------------------------------------------------------------------------------------------------

constexpr const char* kPlan =
    R"({"peak_bytes": {"device": {"total": 1}, "host": {"total": 2}}, "plan_yaml": "groups:",
        "forecast": {"tokens_per_second": 100.0, "step_seconds": 2.0, "bound_seconds": 1.0, "percent_of_bound": 50.0,
                     "binding_lane": "read", "disk_read_bytes": 3, "disk_write_bytes": 4}})";
constexpr const char* kProfile =
    R"({"summary": {"tokens_per_second": 80.0, "step_seconds": 2.5, "bound_seconds": 2.0,
                    "seconds_per_10k_tokens": 125.0,
                    "percent_of_bound": 80.0, "binding_lane": "compute", "device_peak_bytes": 5, "host_peak_bytes": 6},
        "disk": {"read_bytes_per_step": 7.0, "write_bytes_per_step": 8.0},
        "energy": {"gpu": {"joules_per_token": null}, "cpu": {"joules_per_token": 0.5}}})";

class StudyResultsTest : public StudyTest {
 protected:
  void SetUp() override {
    StudyTest::SetUp();
    study_ = read(
        "grid: {seed: [1, 2, 3]}\npublished:\n"
        "  - {what: one, source: s, tokens_per_second: 628, where: {seed: 1}}\n"
        "  - {what: two, source: s, words: slower, where: {seed: 2}}\n"
        "  - {what: three, source: s, words: no room, where: {seed: 3}}\n"
        "  - {what: all, source: s, words: varies}\n");
    results_.machine = "a machine";
    results_.cells = {{CellState::measured, kPlan, kProfile, "", 1},
                      {CellState::planned, kPlan, "", "", 1},
                      {CellState::skipped, "", "", "needs 9 GiB, \"here\" are\n8|GiB", 1}};
  }
  Study study_;
  StudyResults results_;
};

TEST_F(StudyResultsTest, WhatWasMeasuredIsFoundAgainAndOnlyThat) {
  const CellStore store("out", "context");
  EXPECT_FALSE(store.find(study_.cells[0]).has_value());
  store.save(study_.cells[0], results_.cells[0]);
  const std::optional<CellResult> found = CellStore("out", "context").find(study_.cells[0]);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->state, CellState::measured);
  EXPECT_EQ(found->profile, kProfile);
  EXPECT_EQ(found->plan, kPlan);
  EXPECT_FALSE(store.find(study_.cells[1]).has_value());
  EXPECT_FALSE(CellStore("out", "another job, machine or version").find(study_.cells[0]).has_value());
}

TEST_F(StudyResultsTest, AResultThatWasNotWrittenWholeIsNone) {
  const CellStore store("out", "context");
  store.save(study_.cells[0], results_.cells[0]);
  for (const auto& file : std::filesystem::directory_iterator("out/cells"))
    std::filesystem::resize_file(file.path(), std::filesystem::file_size(file.path()) / 2);
  EXPECT_FALSE(store.find(study_.cells[0]).has_value());
}

TEST_F(StudyResultsTest, AResultThatSomebodyChangedIsNoneOrTheSame) {
  const CellStore store("out", "context");
  store.save(study_.cells[0], results_.cells[0]);
  const std::filesystem::path file = *std::filesystem::directory_iterator("out/cells");
  const auto whole = nlohmann::json::parse(std::ifstream(file));
  for (const char* key : {"settings", "state", "plan", "profile", "reason", "plan_seconds"}) {
    nlohmann::json changed = whole;
    changed[key] = nlohmann::json::array({1});
    std::ofstream(file) << changed;
    EXPECT_FALSE(store.find(study_.cells[0]).has_value()) << key;
  }
  for (const auto& [key, text] :
       {std::pair("profile", "{"), {"plan", "{"}, {"state", "done"}, {"settings", "seed=9"}}) {
    nlohmann::json broken = whole;
    broken[key] = text;
    std::ofstream(file) << broken;
    EXPECT_FALSE(store.find(study_.cells[0]).has_value()) << key;
  }
  std::ofstream(file) << whole;
  EXPECT_TRUE(store.find(study_.cells[0]).has_value());
}

TEST_F(StudyResultsTest, TheTableTellsMeasuredFromPlannedAndSaysWhy) {
  const auto json = nlohmann::json::parse(to_json(study_, results_, Details::left_out));
  EXPECT_EQ(json["cells"][0]["tokens_per_second"], 80.0);
  EXPECT_EQ(json["cells"][0]["planned_tokens_per_second"], 100.0);
  EXPECT_EQ(json["cells"][0]["bound_tokens_per_second"], 100.0);
  EXPECT_TRUE(json["cells"][0]["gpu_joules_per_token"].is_null());
  EXPECT_TRUE(json["cells"][1]["tokens_per_second"].is_null());
  EXPECT_EQ(json["cells"][1]["bound_tokens_per_second"], 200.0);
  EXPECT_EQ(json["cells"][2]["status"], "skipped");
  EXPECT_FALSE(json["cells"][0].contains("profile"));
  EXPECT_EQ(json["published"][0]["ours"], "measured: 80 tokens/s; planned: 100 tokens/s");
  EXPECT_EQ(json["published"][1]["ours"], "not measured; planned: 100 tokens/s");
  EXPECT_EQ(json["published"][2]["ours"], "not measured");
  EXPECT_EQ(json["published"][3]["ours"], "measured: 80 tokens/s; planned: 100 to 100 tokens/s in 2 cells");
  const auto whole = nlohmann::json::parse(to_json(study_, results_, Details::included));
  EXPECT_EQ(whole["cells"][0]["profile"], nlohmann::json::parse(kProfile));
  EXPECT_EQ(whole["cells"][1]["plan"]["plan_yaml"], "groups:");

  const std::string markdown = to_markdown(study_, results_);
  EXPECT_NE(markdown.find("| 2 | planned | not measured | 100 |"), std::string::npos) << markdown;
  EXPECT_NE(markdown.find("needs 9 GiB, \"here\" are 8\\|GiB"), std::string::npos) << markdown;
  EXPECT_NE(markdown.find("| two | slower | not measured; planned: 100 tokens/s | s |"), std::string::npos) << markdown;

  const std::string csv = to_csv(study_, results_);
  EXPECT_TRUE(csv.starts_with("seed,status,tokens_per_second,")) << csv;
  EXPECT_NE(csv.find("\n1,measured,80,100,100,80,compute,2.5,125,5,6,7,8,,0.5,\n"), std::string::npos) << csv;
  EXPECT_NE(csv.find("\"needs 9 GiB, \"\"here\"\" are\n8|GiB\""), std::string::npos) << csv;
}

}  // namespace
}  // namespace sluice::train
