#include "crnet/train/run_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "config/config_files.h"
#include "config/json.h"
#include "crnet/config/print.h"

namespace crnet {
namespace {

namespace fs = std::filesystem;

std::string error_of(RunConfig config) {
  return usage_error([&] { config.validate(); });
}

TEST(RunConfig, EveryFileInConfigsParsesAndValidates) {
  size_t files = 0;
  for (const auto& entry :
       fs::recursive_directory_iterator(fs::path(CRNET_SOURCE_DIR) / "configs")) {
    if (!entry.is_regular_file()) continue;
    ++files;
    EXPECT_NO_THROW((void)load_run_config(entry.path().string())) << entry.path();
  }
  EXPECT_GE(files, 24u);  // six sizes of three architectures, the quickstart's, five recipes
}

TEST(RunConfig, RecipesTrainOnTheTokensOfTheirSize) {
  const std::map<std::string, double> billions = {
      {"60m", 1.1}, {"130m", 2.2}, {"350m", 6.4}, {"1b", 13.1}};
  for (const auto& [size, expected] : billions) {
    const auto run =
        load_run_config(std::string(CRNET_SOURCE_DIR) + "/configs/recipes/crnet-" + size + ".yaml")
            .config;
    const auto tokens = static_cast<double>(run.train.steps * run.train.global_batch_tokens);
    EXPECT_NEAR(tokens / 1e9, expected, 0.05) << size;
  }
}

TEST(RunConfig, DefaultsAreValid) {
  RunConfig().validate();
}

TEST(RunConfig, GlobalBatchIsAMultipleOfTheMicroBatch) {
  RunConfig config;
  EXPECT_EQ(config.accumulation_steps(), 1);
  config.train.global_batch_tokens = 8 * 256 * 3;
  config.validate();
  EXPECT_EQ(config.accumulation_steps(), 3);
  config.train.global_batch_tokens += 1;
  EXPECT_EQ(error_of(config),
            "train.global_batch_tokens: expected 0 or a multiple of train.micro_batch * "
            "data.sequence_length (8 * 256 = 2048), got 6145");
}

TEST(RunConfig, ProductsOfTheLargestValuesDoNotOverflow) {
  RunConfig config;
  config.train.micro_batch = int64_t{1} << 62;
  EXPECT_EQ(error_of(config),
            "train.micro_batch: expected an integer >= 1 and <= 1000000, got 4611686018427387904");
}

TEST(RunConfig, SequencesFitTheModel) {
  RunConfig config;
  config.data.sequence_length = 4096;
  EXPECT_EQ(error_of(config),
            "data.sequence_length: expected at most model.max_sequence_length (2048), got 4096");
}

TEST(RunConfig, PhasesOfTheScheduleFitTheSteps) {
  RunConfig config;
  config.schedule.warmup_steps = 1001;
  EXPECT_EQ(error_of(config),
            "schedule.warmup_steps: expected at most train.steps (1000), got 1001; lower it as "
            "well, with --set schedule.warmup_steps=100");
  config.schedule.warmup_steps = 900;
  config.schedule.kind = ScheduleKind::kWsd;
  EXPECT_EQ(error_of(config),
            "schedule.decay_steps: expected an integer >= 1 where schedule.kind is wsd, got 0");
  config.schedule.decay_steps = 101;
  EXPECT_EQ(error_of(config),
            "schedule.decay_steps: expected at most train.steps - schedule.warmup_steps (100), "
            "got 101");
  config.schedule.decay_steps = 100;
  config.validate();
}

TEST(RunConfig, ARecordedPassIsNeitherCheckedNorInverted) {
  RunConfig config;
  config.model.architecture = Architecture::kCRNet;
  config.recompute.strategy = RecomputeStrategy::kReplay;
  config.recompute.check_every = 10;
  config.validate();
  config.train.cuda_graphs = true;
  EXPECT_EQ(error_of(config), "recompute.check_every: expected 0 with train.cuda_graphs, got 10");
  config.recompute.check_every = 0;
  config.validate();
  config.recompute.strategy = RecomputeStrategy::kInverse;
  EXPECT_EQ(error_of(config),
            "recompute.strategy: expected one that does not invert with train.cuda_graphs, got "
            "inverse; replay gives the bits of none");
}

TEST(RunConfig, ModelErrorNamesTheLineOfItsKey) {
  const ConfigFiles files;
  const std::string model =
      files.write("model.yaml", "model:\n  hidden_size: 500\n  num_heads: 7\n");
  const std::string run = files.write("run.yaml", "extends: model.yaml\n");
  EXPECT_EQ(usage_error([&] { (void)load_run_config(run); }),
            "[config] " + model +
                ":3: model.num_heads: expected a divisor of model.hidden_size (500), got 7");
}

TEST(RunConfig, ModelErrorOfADefaultNamesTheLineOfTheOtherKey) {
  const ConfigFiles files;
  const std::string run = files.write("run.yaml", "model:\n  hidden_size: 500\n");
  EXPECT_EQ(usage_error([&] { (void)load_run_config(run); }),
            "[config] " + run +
                ":2: model.num_heads: expected a divisor of model.hidden_size (500), got 8");
}

TEST(RunConfig, UnknownKeyNamesFileLineAndNearestKey) {
  const ConfigFiles files;
  const std::string run = files.write("run.yaml", "train:\n  seed: 1\n  stepz: 50\n");
  EXPECT_EQ(usage_error([&] { (void)load_run_config(run); }),
            "[config] " + run + ":3: train.stepz: unknown key; did you mean train.steps?");
}

TEST(RunConfig, RankIsReadInAllThreeForms) {
  const ConfigFiles files;
  const std::string run = files.write("run.yaml", "model:\n  num_layers: 2\n");
  const auto rank = [&](const std::string& text) {
    return load_run_config(run, {"model.r=" + text}).config.model.low_rank(1, Projection::kQ);
  };
  EXPECT_EQ(rank("32"), 32);
  EXPECT_EQ(rank("[16, 48]"), 48);
  EXPECT_EQ(rank("{default: 8, q: 64}"), 64);
  EXPECT_EQ(usage_error([&] { rank("{default: 8, dwn: 64}"); }),
            "[config] --set: model.r.dwn: unknown key; did you mean model.r.down?");
  EXPECT_EQ(usage_error([&] { rank("{default: 8, down: 513}"); }),
            "[config] --set: model.r.down: expected at most 512 for down (1376 x 512) in block 2, "
            "got 513");
}

TEST(RunConfig, JsonRoundTripKeepsEveryKey) {
  RunConfig config;
  config.model.r = std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8};
  config.model.architecture = Architecture::kCoLA;
  config.optimizer.lr = 1.0 / 3;
  config.train.precision = PrecisionChoice::kBf16;
  config.data.path = "some/folder";
  const nlohmann::json json = to_json(config);
  const auto again = from_json<RunConfig>(json, "manifest.json");
  EXPECT_EQ(to_json(again), to_json(config));
  EXPECT_EQ(again.optimizer.lr, 1.0 / 3);
  EXPECT_EQ(again.model.low_rank(6, Projection::kO), 7);
}

TEST(RunConfig, ModelAloneGoesThroughJson) {
  ModelConfig model;
  model.r = std::map<std::string, int64_t>{{"default", 64}, {"q", 32}};
  const auto again = from_json<ModelConfig>(to_json(model), "manifest.json");
  EXPECT_EQ(again.r, model.r);
  EXPECT_EQ(usage_error([&] {
              auto json = to_json(model);
              json["num_heads"] = 3;
              (void)from_json<ModelConfig>(json, "manifest.json");
            }),
            "[config] manifest.json: model.num_heads: expected a divisor of model.hidden_size "
            "(512), got 3");
}

TEST(RunConfig, PrintedRunReadsBackTheSame) {
  const ConfigFiles files;
  const auto loaded =
      load_run_config(std::string(CRNET_SOURCE_DIR) + "/configs/recipes/quickstart.yaml",
                      {"train.steps=50", "model.r={default: 64, q: 32}"});
  const auto again = load_run_config(files.write("resolved.yaml", to_yaml(loaded)));
  EXPECT_EQ(to_json(again.config), to_json(loaded.config));
  EXPECT_EQ(loaded.origin("train.steps"), "--set");
}

TEST(RunConfig, ProblemFoundLaterNamesTheLineToo) {
  const ConfigFiles files;
  const std::string run = files.write("run.yaml", "data:\n  path: nowhere\n");
  EXPECT_EQ(load_run_config(run).problem("data.path", "expected a folder, found none at nowhere"),
            "[config] " + run + ":2: data.path: expected a folder, found none at nowhere");
}

TEST(RunConfig, EveryKeyHasAMeaning) {
  RunConfig config;
  const auto list = bind_fields(config);
  for (const auto& bound : list.fields) EXPECT_STRNE(bound.field.help, "") << bound.key;
  for (const auto& section : list.sections) EXPECT_NE(section.help, "") << section.key;
}

}  // namespace
}  // namespace crnet
